package peer;

/** What the join needs of a prediction. */
record Prediction(String model, long timeMs, int predicted, double score) implements Timed {}

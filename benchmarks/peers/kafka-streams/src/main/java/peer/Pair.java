package peer;

/** A prediction with its label. */
record Pair(Prediction prediction, int label) {}

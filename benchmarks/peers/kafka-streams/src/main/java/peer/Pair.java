package peer;

/** What the counts need of a prediction and its label. */
record Pair(String model, long timeMs, double score, int label) {
    static Pair of(Prediction prediction, Label label) {
        return new Pair(prediction.model(), prediction.timeMs(), prediction.score(), label.label());
    }
}

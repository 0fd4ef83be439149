package peer;

/** What the join needs of a label. */
record Label(long timeMs, int label) implements Timed {}

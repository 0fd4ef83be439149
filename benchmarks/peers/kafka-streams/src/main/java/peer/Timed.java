package peer;

/** An event that knows its own time, in milliseconds since the epoch. */
interface Timed {
    long timeMs();
}

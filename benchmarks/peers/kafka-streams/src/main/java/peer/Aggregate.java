package peer;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;

/** Counts of one model in one window: confusion at 0.5, and the scores of positives and negatives in 64 bins each. */
final class Aggregate {
    static final int BINS = 64;
    private static final int CONFUSION = 0;
    private static final int POSITIVES = 4;
    private static final int NEGATIVES = POSITIVES + BINS;
    private static final int SIZE = NEGATIVES + BINS;

    private final long[] counts;

    Aggregate() {
        this(new long[SIZE]);
    }

    private Aggregate(long[] counts) {
        this.counts = counts;
    }

    Aggregate add(Pair pair) {
        double score = pair.score();
        int bin = Math.min(BINS - 1, Math.max(0, (int) (score * BINS)));
        counts[CONFUSION + 2 * pair.label() + (score >= 0.5 ? 1 : 0)]++;
        counts[(pair.label() == 1 ? POSITIVES : NEGATIVES) + bin]++;
        return this;
    }

    /** The counts as one JSON document, as the outputs are compared. */
    byte[] json(int partition, long windowStartMs) {
        StringBuilder text = new StringBuilder(512);
        text.append("{\"partition\":").append(partition).append(",\"window_start_ms\":").append(windowStartMs);
        String[] names = {"tn", "fp", "fn", "tp"};
        for (int i = 0; i < names.length; i++) {
            text.append(",\"").append(names[i]).append("\":").append(counts[CONFUSION + i]);
        }
        appendAll(text.append(",\"positives\":["), POSITIVES);
        appendAll(text.append("],\"negatives\":["), NEGATIVES);
        return text.append("]}").toString().getBytes(StandardCharsets.UTF_8);
    }

    private void appendAll(StringBuilder text, int from) {
        for (int i = 0; i < BINS; i++) {
            text.append(i == 0 ? "" : ",").append(counts[from + i]);
        }
    }

    static Serde<Aggregate> serde() {
        return Serdes.serdeFrom(
                (topic, aggregate) -> {
                    ByteBuffer buffer = ByteBuffer.allocate(8 * SIZE);
                    buffer.asLongBuffer().put(aggregate.counts);
                    return buffer.array();
                },
                (topic, bytes) -> {
                    if (bytes == null) {
                        return null;
                    }
                    long[] counts = new long[SIZE];
                    ByteBuffer.wrap(bytes).asLongBuffer().get(counts);
                    return new Aggregate(counts);
                });
    }
}

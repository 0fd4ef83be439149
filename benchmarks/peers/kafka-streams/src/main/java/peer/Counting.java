package peer;

import java.time.Duration;
import java.util.HashSet;
import java.util.Set;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.streams.processor.PunctuationType;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.WindowStore;

/**
 * Aggregates pairs per model and tumbling window inside their own partition, and sends what changed once a commit
 * interval. A groupBy(model) would send every pair through a repartition topic first.
 */
final class Counting implements Processor<byte[], Pair, String, byte[]> {
    static final String STORE = "aggregates";
    static final long WINDOW_MS = 600_000;

    /** A window that changed since it was last sent. */
    private record Key(String model, long windowStartMs) {}

    private final AtomicLong pairs;
    private final long intervalMs;
    private final Set<Key> changed = new HashSet<>();
    private ProcessorContext<String, byte[]> context;
    private WindowStore<String, Aggregate> store;

    Counting(AtomicLong pairs, long intervalMs) {
        this.pairs = pairs;
        this.intervalMs = intervalMs;
    }

    @Override
    public void init(ProcessorContext<String, byte[]> context) {
        this.context = context;
        store = context.getStateStore(STORE);
        context.schedule(Duration.ofMillis(intervalMs), PunctuationType.WALL_CLOCK_TIME, this::send);
    }

    @Override
    public void process(Record<byte[], Pair> record) {
        Pair pair = record.value();
        long start = pair.timeMs() - Math.floorMod(pair.timeMs(), WINDOW_MS);
        Aggregate aggregate = store.fetch(pair.model(), start);
        if (aggregate == null) {
            aggregate = new Aggregate();
        }
        aggregate.add(pair);
        store.put(pair.model(), aggregate, start);
        changed.add(new Key(pair.model(), start));
        pairs.incrementAndGet();
    }

    private void send(long nowMs) {
        int partition = context.taskId().partition();
        for (Key key : changed) {
            Aggregate aggregate = store.fetch(key.model(), key.windowStartMs());
            context.forward(new Record<>(key.model(), aggregate.json(partition, key.windowStartMs()), nowMs));
        }
        changed.clear();
    }
}

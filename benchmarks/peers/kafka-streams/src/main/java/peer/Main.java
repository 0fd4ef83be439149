package peer;

import java.io.IOException;
import java.io.Reader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.JoinWindows;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.StreamJoined;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.state.Stores;
import org.apache.kafka.streams.state.WindowStore;

/**
 * The join benchmark's work for Kafka Streams: predictions joined with labels by key within a horizon, then counted per
 * model and window. Runs until it is told to end.
 *
 * <p>Usage: Main SETTINGS.properties. Names beginning with "peer." are ours, the rest is Kafka Streams configuration.
 */
public final class Main {
    private Main() {}

    public static void main(String[] arguments) throws IOException, InterruptedException {
        Properties settings = new Properties();
        try (Reader reader = Files.newBufferedReader(Path.of(arguments[0]))) {
            settings.load(reader);
        }
        int warmUp = Integer.parseInt(settings.getProperty("peer.warm-up.pairs", "0"));
        if (warmUp > 0) {
            warmUp(settings, warmUp);
        }
        AtomicLong pairs = new AtomicLong();
        KafkaStreams streams = start(settings, "peer.", pairs);
        CountDownLatch ended = new CountDownLatch(1);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            streams.close(Duration.ofSeconds(10));
            ended.countDown();
        }));
        ended.await();
    }

    /** The same work on other topics first, in this process: the compiler is done when the measurement begins. */
    private static void warmUp(Properties settings, int wanted) throws InterruptedException {
        AtomicLong pairs = new AtomicLong();
        KafkaStreams streams = start(settings, "peer.warm-up.", pairs);
        while (pairs.get() < wanted) {
            Thread.sleep(50);
        }
        streams.close(Duration.ofSeconds(30));
        streams.cleanUp();
    }

    private static KafkaStreams start(Properties all, String names, AtomicLong pairs) {
        Properties streams = new Properties();
        all.forEach((name, value) -> {
            if (!name.toString().startsWith("peer.")) {
                streams.put(name, value);
            }
        });
        streams.put(StreamsConfig.APPLICATION_ID_CONFIG, all.getProperty(names + "application.id"));
        streams.put(StreamsConfig.ROCKSDB_CONFIG_SETTER_CLASS_CONFIG, RocksSettings.class.getName());
        long horizonMs = Long.parseLong(all.getProperty("peer.horizon.ms"));
        long intervalMs = Long.parseLong(all.getProperty(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG));
        Topology topology = topology(
                Boolean.parseBoolean(all.getProperty("peer.lean")),
                all.getProperty(names + "predictions"),
                all.getProperty(names + "labels"),
                all.getProperty(names + "output"),
                Duration.ofMillis(horizonMs),
                intervalMs,
                pairs);
        KafkaStreams started = new KafkaStreams(topology, streams);
        started.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            Runtime.getRuntime().halt(1);
            return null;
        });
        started.start();
        return started;
    }

    private static Topology topology(
            boolean lean,
            String predictions,
            String labels,
            String output,
            Duration horizon,
            long intervalMs,
            AtomicLong pairs) {
        StreamsBuilder builder = new StreamsBuilder();
        KStream<byte[], Prediction> left = builder.stream(predictions, consumed(Wire.predictionJson()));
        KStream<byte[], Label> right = builder.stream(labels, consumed(Wire.labelJson()));
        // A label comes after its prediction, or in the same moment; the grace is the horizon, as in the worker.
        JoinWindows window = JoinWindows.ofTimeDifferenceAndGrace(Duration.ZERO, horizon).after(horizon);
        KStream<byte[], Pair> joined = left.join(
                right,
                Pair::of,
                window,
                StreamJoined.with(Serdes.ByteArray(), Wire.predictionPacked(), Wire.labelPacked())
                        .withName("join")
                        .withStoreName("join"));
        KStream<String, byte[]> counted =
                lean ? lean(builder, joined, horizon, intervalMs, pairs) : plain(joined, horizon, pairs);
        counted.to(output, Produced.with(Serdes.String(), Serdes.ByteArray()));
        return builder.build();
    }

    /** As Kafka Streams' own language says it: pairs go to their model's partition, and are aggregated there. */
    private static KStream<String, byte[]> plain(KStream<byte[], Pair> joined, Duration horizon, AtomicLong pairs) {
        return joined.groupBy(
                        (key, pair) -> pair.model(),
                        Grouped.with("by-model", Serdes.String(), Wire.pairPacked()))
                .windowedBy(TimeWindows.ofSizeAndGrace(Duration.ofMillis(Counting.WINDOW_MS), horizon))
                .aggregate(
                        Aggregate::new,
                        (model, pair, aggregate) -> {
                            pairs.incrementAndGet();
                            return aggregate.add(pair);
                        },
                        Materialized.<String, Aggregate, WindowStore<Bytes, byte[]>>as(Counting.STORE)
                                .withKeySerde(Serdes.String())
                                .withValueSerde(Aggregate.serde())
                                .withRetention(horizon.multipliedBy(2))
                                .withCachingEnabled())
                .toStream((windowed, aggregate) -> windowed)
                .map((windowed, aggregate) -> new KeyValue<>(
                        windowed.key(), aggregate.json(0, windowed.window().start())));
    }

    /** Without the detour through a topic: partial windows of every partition, to be added up by whoever reads them. */
    private static KStream<String, byte[]> lean(
            StreamsBuilder builder, KStream<byte[], Pair> joined, Duration horizon, long intervalMs, AtomicLong pairs) {
        builder.addStateStore(Stores.windowStoreBuilder(
                        Stores.persistentWindowStore(
                                Counting.STORE,
                                horizon.multipliedBy(2),
                                Duration.ofMillis(Counting.WINDOW_MS),
                                false),
                        Serdes.String(),
                        Aggregate.serde())
                .withCachingEnabled());
        return joined.process(() -> new Counting(pairs, intervalMs), Counting.STORE);
    }

    private static <T extends Timed> Consumed<byte[], T> consumed(Serde<T> serde) {
        return Consumed.with(Serdes.ByteArray(), serde)
                .withTimestampExtractor((record, partitionTimeMs) -> ((Timed) record.value()).timeMs());
    }
}

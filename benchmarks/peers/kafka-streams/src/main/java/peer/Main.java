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
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.JoinWindows;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.StreamJoined;
import org.apache.kafka.streams.state.Stores;

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

    /** The same work on other topics first, in this process, so that the compiler is done when the measurement begins. */
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
            String predictions, String labels, String output, Duration horizon, long intervalMs, AtomicLong pairs) {
        StreamsBuilder builder = new StreamsBuilder();
        KStream<byte[], Prediction> left = builder.stream(predictions, consumed(Wire.predictionJson()));
        KStream<byte[], Label> right = builder.stream(labels, consumed(Wire.labelJson()));
        builder.addStateStore(Stores.windowStoreBuilder(
                        Stores.persistentWindowStore(
                                Counting.STORE,
                                horizon.multipliedBy(2),
                                Duration.ofMillis(Counting.WINDOW_MS),
                                false),
                        Serdes.String(),
                        Aggregate.serde())
                .withCachingEnabled());
        // A label comes after its prediction, or in the same moment; the grace is the horizon, as in the worker.
        JoinWindows window = JoinWindows.ofTimeDifferenceAndGrace(Duration.ZERO, horizon).after(horizon);
        left.join(
                        right,
                        (prediction, label) -> new Pair(prediction, label.label()),
                        window,
                        StreamJoined.with(Serdes.ByteArray(), Wire.predictionPacked(), Wire.labelPacked())
                                .withName("join")
                                .withStoreName("join"))
                .process(() -> new Counting(pairs, intervalMs), Counting.STORE)
                .to(output, Produced.with(Serdes.String(), Serdes.ByteArray()));
        return builder.build();
    }

    private static <T extends Timed> Consumed<byte[], T> consumed(Serde<T> serde) {
        return Consumed.with(Serdes.ByteArray(), serde)
                .withTimestampExtractor((record, partitionTimeMs) -> ((Timed) record.value()).timeMs());
    }
}

package peer;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.Serializer;

/**
 * Formats: JSON of the two input topics, read with Jackson's streaming parser (no tree, no data binding: nothing in
 * Jackson is faster), and a packed form for the join's stores and changelogs.
 */
final class Wire {
    private static final JsonFactory JSON = new JsonFactory();

    private Wire() {}

    static Serde<Prediction> predictionJson() {
        return readOnly((topic, bytes) -> {
            String model = null;
            long timeMs = 0;
            int predicted = 0;
            double score = 0;
            try (JsonParser parser = JSON.createParser(bytes)) {
                parser.nextToken();
                for (String field = parser.nextFieldName(); field != null; field = parser.nextFieldName()) {
                    JsonToken token = parser.nextToken();
                    switch (field) {
                        case "model" -> model = parser.getText();
                        case "event_time_ms" -> timeMs = parser.getLongValue();
                        case "prediction" -> predicted = parser.getIntValue();
                        case "probability" -> score = parser.getDoubleValue();
                        default -> {
                            if (token.isStructStart()) {
                                parser.skipChildren();
                            }
                        }
                    }
                }
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
            return new Prediction(model, timeMs, predicted, score);
        });
    }

    static Serde<Label> labelJson() {
        return readOnly((topic, bytes) -> {
            long timeMs = 0;
            int label = 0;
            try (JsonParser parser = JSON.createParser(bytes)) {
                parser.nextToken();
                for (String field = parser.nextFieldName(); field != null; field = parser.nextFieldName()) {
                    parser.nextToken();
                    switch (field) {
                        case "event_time_ms" -> timeMs = parser.getLongValue();
                        case "label" -> label = parser.getIntValue();
                        default -> parser.skipChildren();
                    }
                }
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
            return new Label(timeMs, label);
        });
    }

    static Serde<Prediction> predictionPacked() {
        return Serdes.serdeFrom(
                (topic, value) -> {
                    byte[] model = value.model().getBytes(StandardCharsets.UTF_8);
                    return ByteBuffer.allocate(17 + model.length)
                            .putLong(value.timeMs())
                            .putDouble(value.score())
                            .put((byte) value.predicted())
                            .put(model)
                            .array();
                },
                (topic, bytes) -> {
                    ByteBuffer buffer = ByteBuffer.wrap(bytes);
                    long timeMs = buffer.getLong();
                    double score = buffer.getDouble();
                    int predicted = buffer.get();
                    String model = new String(bytes, 17, bytes.length - 17, StandardCharsets.UTF_8);
                    return new Prediction(model, timeMs, predicted, score);
                });
    }

    static Serde<Label> labelPacked() {
        return Serdes.serdeFrom(
                (topic, value) -> ByteBuffer.allocate(9).putLong(value.timeMs()).put((byte) value.label()).array(),
                (topic, bytes) -> {
                    ByteBuffer buffer = ByteBuffer.wrap(bytes);
                    return new Label(buffer.getLong(), buffer.get());
                });
    }

    static Serde<Pair> pairPacked() {
        return Serdes.serdeFrom(
                (topic, value) -> {
                    byte[] model = value.model().getBytes(StandardCharsets.UTF_8);
                    return ByteBuffer.allocate(17 + model.length)
                            .putLong(value.timeMs())
                            .putDouble(value.score())
                            .put((byte) value.label())
                            .put(model)
                            .array();
                },
                (topic, bytes) -> {
                    ByteBuffer buffer = ByteBuffer.wrap(bytes);
                    long timeMs = buffer.getLong();
                    double score = buffer.getDouble();
                    int label = buffer.get();
                    String model = new String(bytes, 17, bytes.length - 17, StandardCharsets.UTF_8);
                    return new Pair(model, timeMs, score, label);
                });
    }

    private static <T> Serde<T> readOnly(Deserializer<T> deserializer) {
        Serializer<T> none = (topic, value) -> {
            throw new UnsupportedOperationException("input only");
        };
        return Serdes.serdeFrom(none, deserializer);
    }
}

import com.bj58.ailab.dlpredictonline.grpc.WpaiDLPredictOnlineServiceGrpc;
import com.bj58.ailab.dlpredictonline.grpc.WpaiDLPredictOnlineServiceGrpc.WpaiDLPredictOnlineServiceBlockingStub;
import com.google.protobuf.ByteString;
import com.google.protobuf.Value;
import inference.Inference.ModelInferRequest;
import inference.Inference.ModelInferResponse;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.MetadataUtils;
import io.seldon.protos.PredictionProtos.DefaultData;
import io.seldon.protos.PredictionProtos.Meta;
import io.seldon.protos.PredictionProtos.SeldonMessage;
import io.seldon.protos.PredictionProtos.Tensor;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.Collectors;
import org.tensorflow.framework.DataType;
import org.tensorflow.framework.TensorProto;
import org.tensorflow.framework.TensorShapeProto;
import tensorflow.serving.TensorflowServing.ModelSpec;
import tensorflow.serving.TensorflowServing.PredictRequest;
import tensorflow.serving.TensorflowServing.PredictResponse;

/**
 * Asks the quickstart's models through the gateway, by every method: {@code java PredictExample HOST:PORT MODELS},
 * with MODELS the folder of the models, which holds the samples.
 */
public final class PredictExample {
    private static final long DEADLINE_MS = 10_000;
    private static final int CELLS = 72; // of one sentence, for textcnn
    private static final int DIGITS_TASK = 39;
    private static final int MMOE_TASK = 111;
    private static final Metadata.Key<String> INSTANCE =
            Metadata.Key.of("x-dl-instance", Metadata.ASCII_STRING_MARSHALLER);

    private final WpaiDLPredictOnlineServiceBlockingStub stub;
    private final Path models;

    private PredictExample(ManagedChannel channel, Path models) {
        stub = WpaiDLPredictOnlineServiceGrpc.newBlockingStub(channel);
        this.models = models;
    }

    public static void main(String[] arguments) throws InterruptedException, IOException {
        if (arguments.length != 2) {
            System.err.println("usage: java PredictExample HOST:PORT MODELS   (the gateway; the folder of the models)");
            System.exit(2);
        }
        // One channel serves all threads of a program for as long as it runs; it reconnects by itself.
        ManagedChannel channel =
                Grpc.newChannelBuilder(arguments[0], InsecureChannelCredentials.create()).build();
        int status = 0;
        try {
            PredictExample example = new PredictExample(channel, Path.of(arguments[1]));
            example.halfPlusTwo("half_plus_two-70", 1f, 2f, 5f);
            example.textcnn("how much does it cost");
            example.mmoe();
            example.digits("7-0.png");
            example.mmoeByTis();
            example.noSuchTask();
        } catch (StatusRuntimeException error) {
            Throwable cause = error.getCause(); // says why the gateway was not reached
            System.err.println(error.getMessage() + (cause == null ? "" : " (" + cause.getMessage() + ")"));
            status = 1;
        } finally {
            channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
        }
        System.exit(status);
    }

    /** A TensorFlow model by Predict: the task id is the end of the model's name. */
    private void halfPlusTwo(String model, float... values) {
        TensorProto.Builder x = TensorProto.newBuilder()
                .setDtype(DataType.DT_FLOAT)
                .setTensorShape(shape(values.length, 1));
        for (float value : values) {
            x.addFloatVal(value);
        }
        PredictRequest request = PredictRequest.newBuilder()
                .setModelSpec(ModelSpec.newBuilder().setName(model))
                .putInputs("x", x.build())
                .build();
        AtomicReference<Metadata> headers = new AtomicReference<>();
        PredictResponse response = oneCall(headers).predict(request);
        report("half_plus_two", joined(floats(response.getOutputsOrThrow("y"))), headers);
    }

    /** Strings in and out: the model reads a sentence as 72 cells of one character each. */
    private void textcnn(String sentence) {
        List<ByteString> cells = sentence.toLowerCase(Locale.ROOT).codePoints()
                .limit(CELLS)
                .mapToObj(point -> ByteString.copyFromUtf8(point == ' ' ? "<space>" : Character.toString(point)))
                .collect(Collectors.toCollection(ArrayList::new));
        for (String next = "<eos>"; cells.size() < CELLS; next = "<pad>") {
            cells.add(ByteString.copyFromUtf8(next));
        }
        PredictRequest request = PredictRequest.newBuilder()
                .setModelSpec(ModelSpec.newBuilder().setName("textcnn-69").setSignatureName("prediction"))
                .putInputs("sentence", strings(shape(1, CELLS), cells))
                .putInputs("label", strings(shape(1), List.of(ByteString.copyFromUtf8("__label__unknown"))))
                .build();
        AtomicReference<Metadata> headers = new AtomicReference<>();
        PredictResponse response = oneCall(headers).predict(request);
        List<ByteString> intents = response.getOutputsOrThrow("output").getStringValList();
        List<Float> scores = floats(response.getOutputsOrThrow("score"));
        List<String> pairs = new ArrayList<>();
        for (int i = 0; i < intents.size(); i++) {
            pairs.add(String.format(Locale.ROOT, "%s %.4f", intents.get(i).toStringUtf8(), scores.get(i)));
        }
        report("textcnn", String.join(", ", pairs), headers);
    }

    /** A PyTorch model by PytorchPredict, with a tensor of doubles: the task id is the tag taskId. */
    private void mmoe() throws IOException {
        List<Double> row = features();
        Tensor features = Tensor.newBuilder().addShape(1).addShape(row.size()).addAllValues(row).build();
        SeldonMessage request = SeldonMessage.newBuilder()
                .setMeta(meta(MMOE_TASK))
                .setData(DefaultData.newBuilder().setTensor(features))
                .build();
        AtomicReference<Metadata> headers = new AtomicReference<>();
        SeldonMessage response = oneCall(headers).pytorchPredict(request);
        report("mmoe", joined(response.getData().getTensor().getValuesList()), headers);
    }

    /** A PyTorch model by PytorchPredict, with the bytes of a file. */
    private void digits(String picture) throws IOException {
        byte[] bytes = Files.readAllBytes(models.resolve("digits/samples").resolve(picture));
        SeldonMessage request = SeldonMessage.newBuilder()
                .setMeta(meta(DIGITS_TASK))
                .setBinData(ByteString.copyFrom(bytes))
                .build();
        AtomicReference<Metadata> headers = new AtomicReference<>();
        SeldonMessage response = oneCall(headers).pytorchPredict(request);
        List<Double> answer = response.getData().getTensor().getValuesList();
        report("digits", String.format(Locale.ROOT, "%.0f, probability %.4f", answer.toArray()), headers);
    }

    /** The same PyTorch model in KServe's protocol, by TisPredict: raw little-endian floats in and out. */
    private void mmoeByTis() throws IOException {
        List<Double> row = features();
        ByteBuffer raw = ByteBuffer.allocate(row.size() * Float.BYTES).order(ByteOrder.LITTLE_ENDIAN);
        row.forEach(value -> raw.putFloat(value.floatValue()));
        ModelInferRequest request = ModelInferRequest.newBuilder()
                .setModelName("mmoe-" + MMOE_TASK)
                .addInputs(ModelInferRequest.InferInputTensor.newBuilder()
                        .setName("x").setDatatype("FP32").addShape(1).addShape(row.size()))
                .addRawInputContents(ByteString.copyFrom(raw.flip()))
                .build();
        AtomicReference<Metadata> headers = new AtomicReference<>();
        ModelInferResponse response = oneCall(headers).tisPredict(request);
        List<Float> values = new ArrayList<>();
        response.getRawOutputContentsList().forEach(output -> values.addAll(floats(output))); // one for each head
        report("mmoe by TisPredict", joined(values), headers);
    }

    /** What an error looks like: a status code to act on, and a message for people. */
    private void noSuchTask() {
        try {
            halfPlusTwo("nobody-12345", 1f);
        } catch (StatusRuntimeException error) {
            if (error.getStatus().getCode() != Status.Code.NOT_FOUND) {
                throw error;
            }
            System.out.println("nobody: NOT_FOUND: " + error.getStatus().getDescription());
        }
    }

    /**
     * The stub for one call, which puts the response's metadata into {@code headers}. A deadline is a point
     * in time, so every call takes a fresh one; it travels to the model's worker.
     */
    private WpaiDLPredictOnlineServiceBlockingStub oneCall(AtomicReference<Metadata> headers) {
        AtomicReference<Metadata> trailers = new AtomicReference<>();
        return stub.withDeadlineAfter(DEADLINE_MS, TimeUnit.MILLISECONDS)
                .withInterceptors(MetadataUtils.newCaptureMetadataInterceptor(headers, trailers));
    }

    private static void report(String model, String answer, AtomicReference<Metadata> headers) {
        System.out.println(model + ": " + answer + "  from " + headers.get().get(INSTANCE));
    }

    private List<Double> features() throws IOException {
        try (var lines = Files.lines(models.resolve("mmoe/samples/0.txt"), StandardCharsets.US_ASCII)) {
            return lines.map(Double::valueOf).collect(Collectors.toList());
        }
    }

    private static Meta meta(int task) {
        return Meta.newBuilder().putTags("taskId", Value.newBuilder().setNumberValue(task).build()).build();
    }

    private static TensorProto strings(TensorShapeProto shape, List<ByteString> values) {
        return TensorProto.newBuilder()
                .setDtype(DataType.DT_STRING).setTensorShape(shape).addAllStringVal(values).build();
    }

    private static TensorShapeProto shape(long... sizes) {
        TensorShapeProto.Builder shape = TensorShapeProto.newBuilder();
        for (long size : sizes) {
            shape.addDim(TensorShapeProto.Dim.newBuilder().setSize(size));
        }
        return shape.build();
    }

    /** The values of a DT_FLOAT tensor, in whichever of its two forms the server chose. */
    private static List<Float> floats(TensorProto tensor) {
        return tensor.getTensorContent().isEmpty() ? tensor.getFloatValList() : floats(tensor.getTensorContent());
    }

    private static List<Float> floats(ByteString littleEndian) {
        ByteBuffer content = littleEndian.asReadOnlyByteBuffer().order(ByteOrder.LITTLE_ENDIAN);
        List<Float> values = new ArrayList<>();
        while (content.hasRemaining()) {
            values.add(content.getFloat());
        }
        return values;
    }

    private static String joined(List<? extends Number> values) {
        return values.stream()
                .map(value -> String.format(Locale.ROOT, "%.4f", value.doubleValue()))
                .collect(Collectors.joining(", "));
    }
}

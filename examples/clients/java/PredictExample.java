import com.bj58.ailab.dlpredictonline.grpc.WpaiDLPredictOnlineServiceGrpc;
import com.bj58.ailab.dlpredictonline.grpc.WpaiDLPredictOnlineServiceGrpc.WpaiDLPredictOnlineServiceBlockingStub;
import com.google.protobuf.Value;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.MetadataUtils;
import io.seldon.protos.PredictionProtos.DefaultData;
import io.seldon.protos.PredictionProtos.Meta;
import io.seldon.protos.PredictionProtos.SeldonMessage;
import io.seldon.protos.PredictionProtos.Tensor;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import org.tensorflow.framework.DataType;
import org.tensorflow.framework.TensorProto;
import org.tensorflow.framework.TensorShapeProto;
import tensorflow.serving.TensorflowServing.ModelSpec;
import tensorflow.serving.TensorflowServing.PredictRequest;
import tensorflow.serving.TensorflowServing.PredictResponse;

/** Asks a TensorFlow and a PyTorch model through the gateway: {@code java PredictExample HOST:PORT}. */
public final class PredictExample {
    private static final long DEADLINE_MS = 10_000;
    private static final int FEATURES = 138;
    private static final Metadata.Key<String> INSTANCE =
            Metadata.Key.of("x-dl-instance", Metadata.ASCII_STRING_MARSHALLER);

    private final WpaiDLPredictOnlineServiceBlockingStub stub;

    private PredictExample(ManagedChannel channel) {
        stub = WpaiDLPredictOnlineServiceGrpc.newBlockingStub(channel);
    }

    public static void main(String[] arguments) throws InterruptedException {
        if (arguments.length != 1) {
            System.err.println("usage: java PredictExample HOST:PORT   (of the gateway)");
            System.exit(2);
        }
        // One channel serves all threads of a program for as long as it runs; it reconnects by itself.
        ManagedChannel channel =
                Grpc.newChannelBuilder(arguments[0], InsecureChannelCredentials.create()).build();
        int status = 0;
        try {
            PredictExample example = new PredictExample(channel);
            example.halfPlusTwo(1f, 2f, 5f);
            example.mmoe();
        } catch (StatusRuntimeException error) {
            Throwable cause = error.getCause(); // says why the gateway was not reached
            System.err.println(error.getMessage() + (cause == null ? "" : " (" + cause.getMessage() + ")"));
            status = 1;
        } finally {
            channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
        }
        System.exit(status);
    }

    /** The TensorFlow model half_plus_two of task 70: the task id is the end of the model's name. */
    private void halfPlusTwo(float... values) {
        TensorProto.Builder x = TensorProto.newBuilder()
                .setDtype(DataType.DT_FLOAT)
                .setTensorShape(TensorShapeProto.newBuilder().addDim(dim(values.length)).addDim(dim(1)));
        for (float value : values) {
            x.addFloatVal(value);
        }
        PredictRequest request = PredictRequest.newBuilder()
                .setModelSpec(ModelSpec.newBuilder().setName("half_plus_two-70"))
                .putInputs("x", x.build())
                .build();
        AtomicReference<Metadata> headers = new AtomicReference<>();
        PredictResponse response = oneCall(headers).predict(request);
        report("half_plus_two", floats(response.getOutputsOrThrow("y")), headers.get());
    }

    /** The PyTorch model mmoe of task 111: the task id is the tag {@code taskId}. */
    private void mmoe() {
        Tensor.Builder features = Tensor.newBuilder().addShape(1).addShape(FEATURES);
        for (int i = 0; i < FEATURES; i++) {
            features.addValues((double) i / FEATURES);
        }
        SeldonMessage request = SeldonMessage.newBuilder()
                .setMeta(Meta.newBuilder().putTags("taskId", Value.newBuilder().setNumberValue(111).build()))
                .setData(DefaultData.newBuilder().setTensor(features))
                .build();
        AtomicReference<Metadata> headers = new AtomicReference<>();
        SeldonMessage response = oneCall(headers).pytorchPredict(request);
        report("mmoe", response.getData().getTensor().getValuesList(), headers.get());
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

    private static void report(String model, List<? extends Number> answer, Metadata headers) {
        System.out.println(model + ": " + answer + " from " + headers.get(INSTANCE));
    }

    private static TensorShapeProto.Dim dim(long size) {
        return TensorShapeProto.Dim.newBuilder().setSize(size).build();
    }

    /** The values of a DT_FLOAT tensor, in whichever of its two forms the server chose. */
    private static List<Float> floats(TensorProto tensor) {
        if (tensor.getTensorContent().isEmpty()) {
            return tensor.getFloatValList();
        }
        ByteBuffer content = tensor.getTensorContent().asReadOnlyByteBuffer().order(ByteOrder.LITTLE_ENDIAN);
        List<Float> values = new ArrayList<>();
        while (content.hasRemaining()) {
            values.add(content.getFloat());
        }
        return values;
    }
}

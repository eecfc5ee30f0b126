// Asks the quickstart's models through the gateway, by every method: caller HOST:PORT MODELS
// MODELS is the folder of the models, which holds the samples.
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/dl-inference/dl_inference/libs/proto/inference"
	"github.com/dl-inference/dl_inference/libs/proto/seldon"
	"github.com/dl-inference/dl_inference/libs/proto/tensorflow"
	tfserving "github.com/dl-inference/dl_inference/libs/proto/tensorflow_serving"
	"github.com/dl-inference/dl_inference/libs/proto/wpai"
)

const (
	deadline   = 10 * time.Second // travels to the model's worker with each call
	cells      = 72               // of one sentence, for textcnn
	digitsTask = 39
	mmoeTask   = 111
)

// caller holds what one program needs of the gateway, for as long as it runs.
type caller struct {
	stub   wpai.WpaiDLPredictOnlineServiceClient
	models string
}

// halfPlusTwo asks a TensorFlow model by Predict: the task id is the end of the model's name.
func (c *caller) halfPlusTwo(ctx context.Context, model string, values ...float32) error {
	request := &tfserving.PredictRequest{
		ModelSpec: &tfserving.ModelSpec{Name: model},
		Inputs: map[string]*tensorflow.TensorProto{"x": {
			Dtype:       tensorflow.DataType_DT_FLOAT,
			TensorShape: shape(int64(len(values)), 1),
			FloatVal:    values,
		}},
	}
	response, instance, err := c.predict(ctx, request)
	if err != nil {
		return err
	}
	report("half_plus_two", joined(floats(response.GetOutputs()["y"])), instance)
	return nil
}

// textcnn sends and gets strings: the model reads a sentence as 72 cells of one character each.
func (c *caller) textcnn(ctx context.Context, sentence string) error {
	var row [][]byte
	for _, character := range strings.ToLower(sentence) {
		cell := string(character)
		if cell == " " {
			cell = "<space>"
		}
		if len(row) < cells {
			row = append(row, []byte(cell))
		}
	}
	for next := "<eos>"; len(row) < cells; next = "<pad>" {
		row = append(row, []byte(next))
	}
	request := &tfserving.PredictRequest{
		ModelSpec: &tfserving.ModelSpec{Name: "textcnn-69", SignatureName: "prediction"},
		Inputs: map[string]*tensorflow.TensorProto{
			"sentence": {Dtype: tensorflow.DataType_DT_STRING, TensorShape: shape(1, cells), StringVal: row},
			"label": {
				Dtype:       tensorflow.DataType_DT_STRING,
				TensorShape: shape(1),
				StringVal:   [][]byte{[]byte("__label__unknown")},
			},
		},
	}
	response, instance, err := c.predict(ctx, request)
	if err != nil {
		return err
	}
	scores := floats(response.GetOutputs()["score"])
	var pairs []string
	for i, intent := range response.GetOutputs()["output"].GetStringVal() {
		pairs = append(pairs, fmt.Sprintf("%s %.4f", intent, scores[i]))
	}
	report("textcnn", strings.Join(pairs, ", "), instance)
	return nil
}

// mmoe asks a PyTorch model by PytorchPredict, with a tensor of doubles: the task id is the tag taskId.
func (c *caller) mmoe(ctx context.Context) error {
	row, err := c.features()
	if err != nil {
		return err
	}
	tensor := &seldon.Tensor{Shape: []int32{1, int32(len(row))}, Values: row}
	response, instance, err := c.pytorchPredict(ctx, mmoeTask, &seldon.SeldonMessage{
		DataOneof: &seldon.SeldonMessage_Data{Data: &seldon.DefaultData{
			DataOneof: &seldon.DefaultData_Tensor{Tensor: tensor},
		}},
	})
	if err != nil {
		return err
	}
	report("mmoe", joined(response.GetData().GetTensor().GetValues()), instance)
	return nil
}

// digits asks a PyTorch model by PytorchPredict, with the bytes of a file.
func (c *caller) digits(ctx context.Context, picture string) error {
	content, err := os.ReadFile(filepath.Join(c.models, "digits", "samples", picture))
	if err != nil {
		return err
	}
	response, instance, err := c.pytorchPredict(ctx, digitsTask, &seldon.SeldonMessage{
		DataOneof: &seldon.SeldonMessage_BinData{BinData: content},
	})
	if err != nil {
		return err
	}
	answer := response.GetData().GetTensor().GetValues()
	if len(answer) != 2 {
		return fmt.Errorf("expected a digit and its probability, got %v", answer)
	}
	report("digits", fmt.Sprintf("%.0f, probability %.4f", answer[0], answer[1]), instance)
	return nil
}

// mmoeByTis asks the same PyTorch model in KServe's protocol, by TisPredict: raw little-endian floats in and out.
func (c *caller) mmoeByTis(ctx context.Context) error {
	row, err := c.features()
	if err != nil {
		return err
	}
	raw := new(bytes.Buffer)
	for _, value := range row {
		_ = binary.Write(raw, binary.LittleEndian, float32(value)) // a Buffer takes everything
	}
	request := &inference.ModelInferRequest{
		ModelName: fmt.Sprintf("mmoe-%d", mmoeTask),
		Inputs: []*inference.ModelInferRequest_InferInputTensor{
			{Name: "x", Datatype: "FP32", Shape: []int64{1, int64(len(row))}},
		},
		RawInputContents: [][]byte{raw.Bytes()},
	}
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	var header metadata.MD
	response, err := c.stub.TisPredict(ctx, request, grpc.Header(&header))
	if err != nil {
		return err
	}
	var values []float32
	for _, output := range response.GetRawOutputContents() { // one for each head
		values = append(values, littleEndian(output)...)
	}
	report("mmoe by TisPredict", joined(values), from(header))
	return nil
}

// noSuchTask shows what an error looks like: a status code to act on, and a message for people.
func (c *caller) noSuchTask(ctx context.Context) error {
	err := c.halfPlusTwo(ctx, "nobody-12345", 1)
	if status.Code(err) != codes.NotFound {
		return fmt.Errorf("expected NOT_FOUND for a task that is not there, got %v", err)
	}
	fmt.Printf("nobody: NOT_FOUND: %s\n", status.Convert(err).Message())
	return nil
}

// predict makes one call with a deadline; it also returns the address of the instance that answered.
func (c *caller) predict(ctx context.Context, request *tfserving.PredictRequest) (*tfserving.PredictResponse, string, error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	var header metadata.MD
	response, err := c.stub.Predict(ctx, request, grpc.Header(&header))
	return response, from(header), err
}

// pytorchPredict is predict for the PyTorch models; it adds the task id to the request.
func (c *caller) pytorchPredict(ctx context.Context, task float64, request *seldon.SeldonMessage) (*seldon.SeldonMessage, string, error) {
	request.Meta = &seldon.Meta{Tags: map[string]*structpb.Value{"taskId": structpb.NewNumberValue(task)}}
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	var header metadata.MD
	response, err := c.stub.PytorchPredict(ctx, request, grpc.Header(&header))
	return response, from(header), err
}

// features reads the sample row of the model mmoe: a number a line.
func (c *caller) features() ([]float64, error) {
	content, err := os.ReadFile(filepath.Join(c.models, "mmoe", "samples", "0.txt"))
	if err != nil {
		return nil, err
	}
	var row []float64
	for _, line := range strings.Fields(string(content)) {
		value, err := strconv.ParseFloat(line, 64)
		if err != nil {
			return nil, err
		}
		row = append(row, value)
	}
	return row, nil
}

func report(model, answer, instance string) {
	fmt.Printf("%s: %s  from %s\n", model, answer, instance)
}

func from(header metadata.MD) string {
	if values := header.Get("x-dl-instance"); len(values) > 0 {
		return values[0]
	}
	return "?"
}

func shape(sizes ...int64) *tensorflow.TensorShapeProto {
	shape := &tensorflow.TensorShapeProto{}
	for _, size := range sizes {
		shape.Dim = append(shape.Dim, &tensorflow.TensorShapeProto_Dim{Size: size})
	}
	return shape
}

// floats returns the values of a DT_FLOAT tensor, in whichever of its two forms the server chose.
func floats(tensor *tensorflow.TensorProto) []float32 {
	if content := tensor.GetTensorContent(); len(content) > 0 {
		return littleEndian(content)
	}
	return tensor.GetFloatVal()
}

func littleEndian(content []byte) []float32 {
	values := make([]float32, len(content)/4)
	_ = binary.Read(bytes.NewReader(content), binary.LittleEndian, values) // exactly as long as values
	return values
}

func joined[T float32 | float64](values []T) string {
	parts := make([]string, len(values))
	for i, value := range values {
		parts[i] = strconv.FormatFloat(float64(value), 'f', 4, 64)
	}
	return strings.Join(parts, ", ")
}

func run(address, models string) error {
	// One connection serves all goroutines of a program for as long as it runs; it reconnects by itself.
	conn, err := dial(address)
	if err != nil {
		return err
	}
	defer conn.Close()
	c := &caller{stub: wpai.NewWpaiDLPredictOnlineServiceClient(conn), models: models}
	ctx := context.Background()
	for _, ask := range []func() error{
		func() error { return c.halfPlusTwo(ctx, "half_plus_two-70", 1, 2, 5) },
		func() error { return c.textcnn(ctx, "how much does it cost") },
		func() error { return c.mmoe(ctx) },
		func() error { return c.digits(ctx, "7-0.png") },
		func() error { return c.mmoeByTis(ctx) },
		func() error { return c.noSuchTask(ctx) },
	} {
		if err := ask(); err != nil {
			return err
		}
	}
	return nil
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: caller HOST:PORT MODELS   (the gateway; the folder of the models)")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		if answer, ok := status.FromError(err); ok {
			fmt.Fprintf(os.Stderr, "%s: %s\n", answer.Code(), answer.Message())
		} else {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
}

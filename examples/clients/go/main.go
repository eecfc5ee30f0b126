// Asks a TensorFlow and a PyTorch model through the gateway: go run . HOST:PORT
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/dl-inference/dl_inference/libs/proto/seldon"
	"github.com/dl-inference/dl_inference/libs/proto/tensorflow"
	tfserving "github.com/dl-inference/dl_inference/libs/proto/tensorflow_serving"
	"github.com/dl-inference/dl_inference/libs/proto/wpai"
)

const (
	deadline = 10 * time.Second // travels to the model's worker with each call
	features = 138
)

type gateway = wpai.WpaiDLPredictOnlineServiceClient

// halfPlusTwo asks the TensorFlow model of task 70: the task id is the end of the model's name.
// It also returns the address of the instance that answered.
func halfPlusTwo(ctx context.Context, stub gateway, values []float32) ([]float32, string, error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	request := &tfserving.PredictRequest{
		ModelSpec: &tfserving.ModelSpec{Name: "half_plus_two-70"},
		Inputs: map[string]*tensorflow.TensorProto{"x": {
			Dtype: tensorflow.DataType_DT_FLOAT,
			TensorShape: &tensorflow.TensorShapeProto{
				Dim: []*tensorflow.TensorShapeProto_Dim{{Size: int64(len(values))}, {Size: 1}},
			},
			FloatVal: values,
		}},
	}
	var header metadata.MD
	response, err := stub.Predict(ctx, request, grpc.Header(&header))
	if err != nil {
		return nil, "", err
	}
	return floats(response.GetOutputs()["y"]), instance(header), nil
}

// mmoe asks the PyTorch model of task 111: the task id is the tag taskId.
// It also returns the address of the instance that answered.
func mmoe(ctx context.Context, stub gateway, values []float64) ([]float64, string, error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	taskID := &structpb.Value{Kind: &structpb.Value_NumberValue{NumberValue: 111}}
	tensor := &seldon.Tensor{Shape: []int32{1, int32(len(values))}, Values: values}
	request := &seldon.SeldonMessage{
		Meta: &seldon.Meta{Tags: map[string]*structpb.Value{"taskId": taskID}},
		DataOneof: &seldon.SeldonMessage_Data{Data: &seldon.DefaultData{
			DataOneof: &seldon.DefaultData_Tensor{Tensor: tensor},
		}},
	}
	var header metadata.MD
	response, err := stub.PytorchPredict(ctx, request, grpc.Header(&header))
	if err != nil {
		return nil, "", err
	}
	return response.GetData().GetTensor().GetValues(), instance(header), nil
}

func instance(header metadata.MD) string {
	if values := header.Get("x-dl-instance"); len(values) > 0 {
		return values[0]
	}
	return "?"
}

// floats returns the values of a DT_FLOAT tensor, in whichever of its two forms the server chose.
func floats(tensor *tensorflow.TensorProto) []float32 {
	content := tensor.GetTensorContent()
	if len(content) == 0 {
		return tensor.GetFloatVal()
	}
	values := make([]float32, len(content)/4)
	for i := range values {
		values[i] = math.Float32frombits(binary.LittleEndian.Uint32(content[4*i:]))
	}
	return values
}

func run(address string) error {
	// One connection serves all goroutines of a program for as long as it runs; it reconnects by itself.
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	stub := wpai.NewWpaiDLPredictOnlineServiceClient(conn)
	ctx := context.Background()

	halves, from, err := halfPlusTwo(ctx, stub, []float32{1, 2, 5})
	if err != nil {
		return err
	}
	fmt.Printf("half_plus_two: %v from %s\n", halves, from)

	row := make([]float64, features)
	for i := range row {
		row[i] = float64(i) / features
	}
	heads, from, err := mmoe(ctx, stub, row)
	if err != nil {
		return err
	}
	fmt.Printf("mmoe: %v from %s\n", heads, from)
	return nil
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go run . HOST:PORT   (of the gateway)")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		answer := status.Convert(err)
		fmt.Fprintf(os.Stderr, "%s: %s\n", answer.Code(), answer.Message())
		os.Exit(1)
	}
}

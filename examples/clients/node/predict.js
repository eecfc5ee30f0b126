// Asks the quickstart's models through the gateway, by every method: node predict.js HOST:PORT MODELS
// MODELS is the folder of the models, which holds the samples; the .proto files lie in ./protos, or in
// the folder that PROTOS names.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const PROTOS = process.env.PROTOS ?? "protos";
const DEADLINE_MS = 10_000; // travels to the model's worker with each call
const CELLS = 72; // of one sentence, for textcnn
const DIGITS_TASK = 39;
const MMOE_TASK = 111;

const definition = protoLoader.loadSync("libs/proto/wpai.proto", {
  includeDirs: [PROTOS],
  keepCase: true, // field names as the .proto files spell them
  longs: Number, // shapes are small; without this they are strings
  enums: String,
  defaults: true, // what an answer leaves out is empty, not undefined
  oneofs: true,
});
const { WpaiDLPredictOnlineService } = grpc.loadPackageDefinition(definition).com.bj58.ailab.dlpredictonline.grpc;

class Gateway {
  /** One client serves a program for as long as it runs; it reconnects by itself. */
  constructor(address) {
    this.client = new WpaiDLPredictOnlineService(address, grpc.credentials.createInsecure());
  }

  /** Makes one call; resolves to the answer and the address of the instance that gave it. */
  call(method, request) {
    return new Promise((resolve, reject) => {
      // A deadline is a point in time: a fresh one for each call.
      const options = { deadline: Date.now() + DEADLINE_MS };
      let instance = "?";
      const call = this.client[method](request, new grpc.Metadata(), options, (error, response) =>
        error ? reject(error) : resolve({ response, instance }),
      );
      call.on("metadata", (headers) => {
        instance = headers.get("x-dl-instance")[0] ?? "?";
      });
    });
  }

  close() {
    this.client.close();
  }
}

/** A TensorFlow model by Predict: the task id is the end of the model's name. */
async function halfPlusTwo(gateway, model, values) {
  const { response, instance } = await gateway.call("Predict", {
    model_spec: { name: model },
    inputs: { x: { dtype: "DT_FLOAT", tensor_shape: shape(values.length, 1), float_val: values } },
  });
  report("half_plus_two", joined(floats(response.outputs.y)), instance);
}

/** Strings in and out: the model reads a sentence as 72 cells of one character each. */
async function textcnn(gateway, sentence) {
  const cells = [...sentence.toLowerCase()].slice(0, CELLS).map((c) => (c === " " ? "<space>" : c));
  if (cells.length < CELLS) cells.push("<eos>");
  while (cells.length < CELLS) cells.push("<pad>");
  const { response, instance } = await gateway.call("Predict", {
    model_spec: { name: "textcnn-69", signature_name: "prediction" },
    inputs: { sentence: strings(shape(1, CELLS), cells), label: strings(shape(1), ["__label__unknown"]) },
  });
  const scores = floats(response.outputs.score);
  const pairs = response.outputs.output.string_val.map((intent, i) => `${intent} ${scores[i].toFixed(4)}`);
  report("textcnn", pairs.join(", "), instance);
}

/** A PyTorch model by PytorchPredict, with a tensor of doubles: the task id is the tag taskId. */
async function mmoe(gateway, row) {
  const { response, instance } = await gateway.call("PytorchPredict", {
    meta: meta(MMOE_TASK),
    data: { tensor: { shape: [1, row.length], values: row } },
  });
  report("mmoe", joined(response.data.tensor.values), instance);
}

/** A PyTorch model by PytorchPredict, with the bytes of a file. */
async function digits(gateway, picture) {
  const { response, instance } = await gateway.call("PytorchPredict", {
    meta: meta(DIGITS_TASK),
    binData: picture,
  });
  const [digit, probability] = response.data.tensor.values;
  report("digits", `${digit}, probability ${probability.toFixed(4)}`, instance);
}

/** The same PyTorch model in KServe's protocol, by TisPredict: raw little-endian floats in and out. */
async function mmoeByTis(gateway, row) {
  const raw = Buffer.alloc(4 * row.length);
  row.forEach((value, i) => raw.writeFloatLE(value, 4 * i));
  const { response, instance } = await gateway.call("TisPredict", {
    model_name: `mmoe-${MMOE_TASK}`,
    inputs: [{ name: "x", datatype: "FP32", shape: [1, row.length] }],
    raw_input_contents: [raw],
  });
  report("mmoe by TisPredict", joined(response.raw_output_contents.flatMap(littleEndian)), instance); // one for each head
}

/** What an error looks like: a status code to act on, and a message for people. */
async function noSuchTask(gateway) {
  try {
    await halfPlusTwo(gateway, "nobody-12345", [1]);
  } catch (error) {
    if (error.code !== grpc.status.NOT_FOUND) throw error;
    console.log(`nobody: NOT_FOUND: ${error.details}`);
  }
}

function report(model, answer, instance) {
  console.log(`${model}: ${answer}  from ${instance}`);
}

function meta(task) {
  return { tags: { taskId: { numberValue: task } } };
}

function shape(...sizes) {
  return { dim: sizes.map((size) => ({ size })) };
}

function strings(tensor_shape, values) {
  return { dtype: "DT_STRING", tensor_shape, string_val: values.map((value) => Buffer.from(value)) };
}

/** The values of a DT_FLOAT tensor, in whichever of its two forms the server chose. */
function floats(tensor) {
  return tensor.tensor_content.length ? littleEndian(tensor.tensor_content) : tensor.float_val;
}

function littleEndian(content) {
  return Array.from({ length: content.length / 4 }, (_, i) => content.readFloatLE(4 * i));
}

function joined(values) {
  return values.map((value) => value.toFixed(4)).join(", ");
}

async function main(address, models) {
  const row = (await readFile(join(models, "mmoe/samples/0.txt"), "ascii")).trim().split("\n").map(Number);
  const gateway = new Gateway(address);
  try {
    await halfPlusTwo(gateway, "half_plus_two-70", [1, 2, 5]);
    await textcnn(gateway, "how much does it cost");
    await mmoe(gateway, row);
    await digits(gateway, await readFile(join(models, "digits/samples/7-0.png")));
    await mmoeByTis(gateway, row);
    await noSuchTask(gateway);
  } finally {
    gateway.close();
  }
}

if (process.argv.length !== 4) {
  console.error("usage: node predict.js HOST:PORT MODELS   (the gateway; the folder of the models)");
  process.exit(2);
}
try {
  await main(process.argv[2], process.argv[3]);
} catch (error) {
  const status = grpc.status[error.code];
  console.error(status ? `${status}: ${error.details}` : error.message);
  process.exitCode = 1;
}

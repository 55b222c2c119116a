// Files of the safetensors format: the length of a header, the header as JSON, and the tensors' bytes.

// `tensors` is {name: {data: Float32Array, dims}}, `metadata` is {name: text}.
export function packed(tensors, metadata) {
  const header = { __metadata__: metadata };
  let end = 0;
  for (const [name, { data, dims }] of Object.entries(tensors)) {
    header[name] = { dtype: "F32", shape: [...dims], data_offsets: [end, (end += data.byteLength)] };
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  const padding = new Uint8Array((8 - (text.length % 8)) % 8).fill(32); // spaces: the tensors begin at a multiple of 8
  const length = new DataView(new ArrayBuffer(8));
  length.setBigUint64(0, BigInt(text.length + padding.length), true);
  const bytes = Object.values(tensors).map(({ data }) => data);
  return new Blob([length.buffer, text, padding, ...bytes], { type: "application/octet-stream" });
}

"use strict";
// Pixels of the review page: planes of bytes, one above the other in a grey PNG, and back to HU; see page.py.
const Pixels = (() => {
  const OFFSET = 32896; // HU 0 as stored
  const CACHED_PIXELS = 8e6;
  const decoded = new Map();

  async function bytesOf(id, width, height, sum) {
    const text = atob(document.getElementById(id).textContent);
    const png = new Blob([Uint8Array.from(text, (letter) => letter.charCodeAt(0))], { type: "image/png" });
    const bitmap = await createImageBitmap(png, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    const rgba = context.getImageData(0, 0, width, height).data;
    const bytes = Uint8Array.from({ length: width * height }, (_, i) => rgba[4 * i]);
    if (bytes.reduce((total, byte, i) => total + byte * (1 + (i % 3)), 0) !== sum) {
      throw new Error("the browser did not hand out its pixels unchanged (protection against fingerprinting does that), or the file is damaged");
    }
    return bytes;
  }

  async function decode(slice) {
    const known = decoded.get(slice.id);
    if (known) return known;
    const { rows, columns, sums } = slice, count = rows * columns;
    const first = await bytesOf(`original-${slice.id}`, columns, 3 * rows, sums[0]);
    const second = await bytesOf(`residual-${slice.id}`, columns, 2 * rows, sums[1]);
    const original = new Int32Array(count), corrected = new Int32Array(count), metal = first.subarray(2 * count);
    for (let i = 0; i < count; i++) {
      const value = first[i] * 256 + first[count + i], residual = second[i] * 256 + second[count + i] - OFFSET;
      original[i] = value - OFFSET;
      corrected[i] = ((value + residual) & 65535) - OFFSET;
    }
    const result = { original, corrected, metal, outline: outlineOf(metal, rows, columns) };
    const most = Math.max(1, Math.floor(CACHED_PIXELS / count));
    while (decoded.size >= most) decoded.delete(decoded.keys().next().value);
    decoded.set(slice.id, result);
    return result;
  }

  function outlineOf(metal, rows, columns) {
    const at = (row, column) => row >= 0 && row < rows && column >= 0 && column < columns && metal[row * columns + column];
    const edges = [];
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        if (!metal[row * columns + column]) continue;
        if (!at(row - 1, column)) edges.push(`M${column} ${row}h1`);
        if (!at(row + 1, column)) edges.push(`M${column} ${row + 1}h1`);
        if (!at(row, column - 1)) edges.push(`M${column} ${row}v1`);
        if (!at(row, column + 1)) edges.push(`M${column + 1} ${row}v1`);
      }
    }
    return edges.join("");
  }

  // The linear window of DICOM PS3.3 C.11.2.1.2.1.
  function grey(hu, center, width) {
    return Math.min(255, Math.max(0, Math.round(((hu - (center - 0.5)) / (width - 1) + 0.5) * 255)));
  }

  // The same, looked up: a slice has more pixels than there are values.
  function greyOf(center, width) {
    const table = Uint8Array.from({ length: 65536 }, (_, stored) => grey(stored - OFFSET, center, width));
    return (hu) => table[hu + OFFSET];
  }

  return { decode, greyOf };
})();

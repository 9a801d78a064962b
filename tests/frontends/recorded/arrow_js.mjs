// What apache-arrow 21.2.0 made of this under Node 20 is in arrow_js.arrows: npm install apache-arrow && node arrow_js.mjs > arrow_js.arrows
import { tableFromArrays, tableToIPC } from "apache-arrow";
const table = tableFromArrays({
  name: ["Ada", "Grace", null, "Ada"],
  count: [1, 2, null, 4],
  small: Int32Array.from([1, 2, 3, 4]),
  big: [10n, 20n, 30n, null],
  ok: [true, false, null, true],
  when: [new Date(Date.UTC(2024, 0, 1, 12, 30)), null, null, new Date(0)],
  sizes: [[1, 2], [4], [5, 6], [3]],
  at: [{ x: 1, y: "a" }, { x: 2, y: "b" }, { x: 3, y: "a" }, { x: 4, y: null }],
  nothing: [null, null, null, null],
});
process.stdout.write(tableToIPC(table, "stream"));

import { expect, test } from "vitest";
import { unheard } from "./captions";

test.each([
  ["One, two, three.", "One, two,", " three."],
  ["One,  two,\nthree.", "One, two,", "\nthree."],
  ["One, two.", "", "One, two."],
  ["One, two.", "One, two.", ""],
  ["One, two.", "Something else", ""],
])("of %j, after %j, %j was not heard", (text, heard, rest) => {
  expect(unheard(text, heard)).toBe(rest);
});

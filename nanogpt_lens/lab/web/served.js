/* Where a page begins that a server gives and computes for: the same page, with another engine. */

import { mountStandalone } from "./main.js";
import { openRemote } from "./remote.js";

export function mountServed(root) {
  return mountStandalone(root, { open: openRemote });
}

// Preact and htm: components without a build step.

import htm from "../vendor/htm/htm.module.js";
import { Component, h, render } from "../vendor/preact/preact.module.js";

export const html = htm.bind(h);
export { Component, render };

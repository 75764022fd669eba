// The panel begins here.
import { render } from "preact";
import { App } from "./app";
import { applyTheme } from "./prefs";
import "./tokens.css";
import "./panel.css";

applyTheme();
render(<App />, document.body);

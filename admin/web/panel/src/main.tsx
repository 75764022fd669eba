// The panel begins here.
import { render } from "preact";
import { App } from "./app";
import { applyTheme } from "./prefs";
import "./tokens.css";
import "./panel.css";

applyTheme();
// The same is drawn again at once, and nothing is seen of that.
document.body.replaceChildren();
render(<App />, document.body);

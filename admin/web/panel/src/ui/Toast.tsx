// Short messages at the edge: what was done (role=status), what went wrong (role=alert).
import { ApiError } from "../api";
import { store, useStore } from "../store";
import { S as SHELL } from "../strings/shell";
import { IconButton } from "./Button";
import { Icon } from "./Icon";

interface Message { id: number; text: string; fix: string | null; bad: boolean }

const messages = store<Message[]>([]);
let last = 0;

function show(text: string, fix: string | null, bad: boolean): void {
  const id = ++last;
  messages.set([...messages.get().slice(-3), { id, text, fix, bad }]);
  setTimeout(() => drop(id), bad ? 12_000 : 5_000);
}

const drop = (id: number) => messages.set(messages.get().filter((one) => one.id !== id));

export const toast = (text: string): void => show(text, null, false);
/** Tells of a failure; an ApiError with what to do. */
export function toastError(error: unknown): void {
  show(error instanceof Error ? error.message : String(error), error instanceof ApiError ? error.problem.fix : null, true);
}

export function Toasts() {
  const all = useStore(messages);
  const list = (bad: boolean) => all.filter((one) => one.bad === bad).map((one) => (
    <div key={one.id} class={`toast ${bad ? "bad" : ""}`}>
      <Icon name={bad ? "bad" : "check"} size={16} />
      <div><p>{one.text}</p>{one.fix && <p class="fix">{one.fix}</p>}</div>
      <IconButton icon="close" size="s" label={SHELL.dismiss} onClick={() => drop(one.id)} />
    </div>
  ));
  return (
    <div class="toasts">
      <div role="status">{list(false)}</div>
      <div role="alert">{list(true)}</div>
    </div>
  );
}

// Fields of a form made from a JSON Schema; what is not set shows its default and can be set back to it.
import type { ComponentChildren } from "preact";
import { useEffect, useId, useState } from "preact/hooks";
import { equal } from "../diff";
import { S } from "../strings/forms";
import type { Json } from "../types";
import { Button, Icon } from "../ui";
import type { Form } from "./form";
import { read, textOf, type Path, type Shape } from "./schema";
import "./forms.css";

/** All fields of an object. */
export function SchemaFields({ form, path = [], shape = form.shape }: { form: Form; path?: Path; shape?: Shape }) {
  return <div class="schema-fields">{shape.fields.map(([name, field]) => <SchemaField key={name} form={form} path={[...path, name]} shape={field} />)}</div>;
}

export interface FieldProps { form: Form; path: Path; shape: Shape; rows?: number }

export function SchemaField(props: FieldProps) {
  const { form, path, shape } = props;
  if (shape.kind === "object") {
    return (
      <fieldset class="schema-object">
        <legend>{form.label(path)}</legend>
        {shape.description && <p class="hint">{prose(shape.description)}</p>}
        {form.problem(path) && <p class="problem">{form.problem(path)}</p>}
        <SchemaFields form={form} path={path} shape={shape} />
      </fieldset>
    );
  }
  if (shape.kind === "boolean" && !shape.nullable) return <Flag {...props} />;
  if (shape.kind === "secret") return <Secret {...props} />;
  if (shape.kind === "choice" || shape.kind === "boolean") return <Options {...props} />;
  return <Typed {...props} />;
}

/** A default as a person reads it. */
export function shownDefault(value: Json | undefined): string {
  if (value === undefined) return S.noDefault;
  if (value === null) return S.none;
  if (value === true || value === false) return value ? S.on : S.off;
  if (Array.isArray(value)) return value.length === 0 ? S.none : value.map((one) => (typeof one === "string" ? one : JSON.stringify(one))).join(", ");
  if (value === "") return S.none;
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** Text with what stands in backticks as code. */
function prose(text: string): ComponentChildren {
  return text.split("`").map((part, i) => (i % 2 === 1 ? <code key={i}>{part}</code> : part));
}

/** Label, control, hint, problem, and the way back to the default. */
export function Row({ form, path, shape, id, hint, children }: FieldProps & { id: string; hint?: ComponentChildren; children: ComponentChildren }) {
  const problem = form.problem(path), pinned = form.pinned(path), name = form.label(path);
  // What is set to its default needs no way back to it.
  const value = form.get(path), given = value !== undefined && shape.kind !== "secret" && !equal(value, form.defaultOf(path, shape));
  return (
    <div class={`field schema-field ${problem ? "wrong" : ""}`}>
      <div class="schema-head">
        <label for={id}>{name}</label>
        {given && pinned === null && (
          <button type="button" class="link schema-reset" aria-label={S.resetField(name)} title={S.default(shownDefault(form.defaultOf(path, shape)))}
            onClick={() => { form.mark(path, null); form.set(path, undefined); }}>{S.reset}</button>
        )}
      </div>
      {children}
      <div class="hint" id={`${id}-hint`}>{pinned !== null && <span class="schema-pinned"><Icon name="info" size={12} />{pinned} </span>}{prose(shape.description)}{hint && <> {hint}</>}</div>
      {problem && <div class="problem" id={`${id}-problem`}>{problem}</div>}
    </div>
  );
}

export const described = (id: string, form: Form, path: Path) => {
  const problem = form.problem(path) !== undefined;
  return { "aria-describedby": `${id}-hint${problem ? ` ${id}-problem` : ""}`, "aria-invalid": problem || undefined };
};

/** Text, numbers, lists of lines, JSON. */
function Typed(props: FieldProps) {
  const { form, path, shape, rows } = props, id = useId();
  const value = form.get(path), fallback = form.defaultOf(path, shape), pinned = form.pinned(path) !== null;
  const [text, setText] = useState(() => textOf(shape, value));
  // What is typed stays as it is typed; it is replaced where the value becomes another one from outside.
  useEffect(() => {
    const now = read(shape, text);
    if (!("value" in now) || JSON.stringify(now.value) !== JSON.stringify(value)) {
      if ("value" in now || form.problem(path) === undefined) setText(textOf(shape, value));
    }
  }, [JSON.stringify(value)]);
  const type = (typed: string) => {
    setText(typed);
    const now = read(shape, typed);
    if ("error" in now) {
      form.mark(path, S.errors[now.error](now.error === "minimum" ? shape.minimum : shape.maximum));
      return;
    }
    form.mark(path, null);
    const cleared = typed === "" && (shape.kind === "text" || shape.kind === "strings") && (fallback === undefined || fallback === null || fallback === "");
    form.set(path, cleared ? undefined : now.value);
  };
  const number = shape.kind === "number" || shape.kind === "integer";
  const long = shape.kind === "strings" || shape.kind === "json" || (rows ?? 1) > 1;
  const none = shape.nullable && value === null;
  const common = {
    id, value: none ? "" : text, disabled: pinned, ...described(id, form, path), spellcheck: shape.kind === "text" && rows !== undefined,
    placeholder: none ? S.none : S.default(shownDefault(fallback)),
  };
  return (
    <Row {...props} id={id} hint={shape.kind === "strings" ? S.lines : shape.kind === "json" ? S.json : undefined}>
      <div class={shape.nullable && fallback !== null ? "schema-nullable" : ""}>
        {long
          ? <textarea class={`input ${shape.kind === "json" ? "mono" : ""}`} rows={rows ?? Math.min(8, Math.max(2, text.split("\n").length))} {...common} onInput={(event) => type(event.currentTarget.value)} />
          : <input class={`input ${number ? "number" : ""}`} type="text" inputMode={number ? "decimal" : undefined} autocomplete="off" {...common} onInput={(event) => type(event.currentTarget.value)} />}
        {shape.nullable && fallback !== null && (
          <Button size="s" aria-pressed={none} disabled={pinned} aria-label={`${form.label(path)}: ${S.none}`}
            onClick={() => { form.mark(path, null); form.set(path, none ? undefined : null); }}>{S.setNone}</Button>
        )}
      </div>
    </Row>
  );
}

function Flag(props: FieldProps) {
  const { form, path, shape } = props, id = useId(), fallback = form.defaultOf(path, shape);
  return (
    <Row {...props} id={id} hint={form.get(path) === undefined && fallback !== undefined ? `(${S.default(shownDefault(fallback))})` : undefined}>
      <input type="checkbox" role="switch" id={id} checked={(form.get(path) ?? fallback) === true} disabled={form.pinned(path) !== null} {...described(id, form, path)}
        onChange={(event) => form.set(path, event.currentTarget.checked)} />
    </Row>
  );
}

function Options(props: FieldProps) {
  const { form, path, shape } = props, id = useId(), value = form.get(path);
  const choices: Json[] = shape.kind === "boolean" ? [true, false] : shape.choices;
  const all = shape.nullable ? [...choices, null] : choices;
  const chosen = value === undefined ? "" : JSON.stringify(value);
  return (
    <Row {...props} id={id}>
      <select id={id} class="input" disabled={form.pinned(path) !== null} {...described(id, form, path)}
        onChange={(event) => { const text = event.currentTarget.value; form.set(path, text === "" ? undefined : (JSON.parse(text) as Json)); }}>
        <option value="" selected={chosen === ""}>{S.defaultOption(shownDefault(form.defaultOf(path, shape)))}</option>
        {all.map((choice) => { const key = JSON.stringify(choice); return <option key={key} value={key} selected={key === chosen}>{shownDefault(choice)}</option>; })}
      </select>
    </Row>
  );
}

/** Never shown; typed anew, or removed. undefined: it stays; "": it is removed. */
function Secret(props: FieldProps) {
  const { form, path } = props, id = useId(), value = form.get(path), there = form.secretSet(path), pinned = form.pinned(path) !== null;
  const removed = value === "";
  return (
    <Row {...props} id={id} hint={removed ? S.secretRemoved : <>{there ? S.isSet : S.isNotSet} {!pinned && S.secretReplace}</>}>
      <div class="schema-nullable">
        <input class="input" type="password" id={id} autocomplete="new-password" disabled={pinned || removed} value={typeof value === "string" ? value : ""}
          placeholder={there ? S.secretKeep : S.secretPlaceholder} {...described(id, form, path)} onInput={(event) => form.set(path, event.currentTarget.value || undefined)} />
        {there && !pinned && <Button size="s" aria-pressed={removed} onClick={() => form.set(path, removed ? undefined : "")}>{removed ? S.secretUndo : S.secretRemove}</Button>}
      </div>
    </Row>
  );
}

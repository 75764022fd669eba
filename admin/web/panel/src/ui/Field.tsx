// Fields of forms: a label, the control, a hint and what is wrong with it.
import type { ComponentChildren, InputHTMLAttributes, SelectHTMLAttributes, TextareaHTMLAttributes } from "preact";
import { useId } from "preact/hooks";

interface Around { label: string; hint?: ComponentChildren; problem?: string | undefined; hideLabel?: boolean }

function wrap(id: string, { label, hint, problem, hideLabel }: Around, control: ComponentChildren) {
  return (
    <div class={`field ${problem ? "wrong" : ""}`}>
      <label for={id} class={hideLabel ? "hidden-visually" : ""}>{label}</label>
      {control}
      {hint && <div class="hint" id={`${id}-hint`}>{hint}</div>}
      {problem && <div class="problem" id={`${id}-problem`}>{problem}</div>}
    </div>
  );
}

const told = (id: string, { hint, problem }: Around) => ({
  "aria-describedby": [hint && `${id}-hint`, problem && `${id}-problem`].filter(Boolean).join(" ") || undefined,
  "aria-invalid": problem ? true : undefined,
});

type Value = { value: string; onValue: (value: string) => void };

export function Field({ label, hint, problem, hideLabel, value, onValue, class: more, ...rest }: Around & Value
  & Omit<InputHTMLAttributes<HTMLInputElement>, "value" | "label">) {
  const id = useId();
  const around: Around = { label, hint, problem, hideLabel: hideLabel ?? false };
  return wrap(id, around, <input id={id} class={`input ${more ?? ""}`} value={value} {...told(id, around)}
    onInput={(event) => onValue(event.currentTarget.value)} {...(rest as object)} />);
}

export function TextArea({ label, hint, problem, hideLabel, value, onValue, class: more, ...rest }: Around & Value
  & Omit<TextareaHTMLAttributes<HTMLTextAreaElement>, "value" | "label">) {
  const id = useId();
  const around: Around = { label, hint, problem, hideLabel: hideLabel ?? false };
  return wrap(id, around, <textarea id={id} class={`input ${more ?? ""}`} value={value} {...told(id, around)}
    onInput={(event) => onValue(event.currentTarget.value)} {...(rest as object)} />);
}

export type Option = { value: string; label: string };

export function Select({ label, hint, problem, hideLabel, value, onValue, options, ...rest }: Around & Value
  & { options: readonly Option[] } & Omit<SelectHTMLAttributes<HTMLSelectElement>, "value" | "label">) {
  const id = useId();
  const around: Around = { label, hint, problem, hideLabel: hideLabel ?? false };
  return wrap(id, around, (
    <select id={id} class="input" value={value} {...told(id, around)} onChange={(event) => onValue(event.currentTarget.value)} {...(rest as object)}>
      {options.map((one) => <option key={one.value} value={one.value} selected={one.value === value}>{one.label}</option>)}
    </select>
  ));
}

export function Check({ label, hint, checked, onValue, ...rest }: { label: ComponentChildren; hint?: ComponentChildren; checked: boolean;
  onValue: (checked: boolean) => void } & Omit<InputHTMLAttributes<HTMLInputElement>, "checked" | "label">) {
  const id = useId();
  return (
    <div class="check">
      <input type="checkbox" id={id} checked={checked} aria-describedby={hint ? `${id}-hint` : undefined}
        onChange={(event) => onValue(event.currentTarget.checked)} {...(rest as object)} />
      <label for={id}>{label}</label>
      {hint && <div class="hint" id={`${id}-hint`}>{hint}</div>}
    </div>
  );
}

/** One of a few, all visible. */
export function Choice<T extends string>({ label, value, onValue, options }: {
  label: string; value: T; onValue: (value: T) => void; options: readonly { value: T; label: ComponentChildren; title?: string }[];
}) {
  const name = useId();
  return (
    <fieldset class="choice">
      <legend class="hidden-visually">{label}</legend>
      {options.map((one) => (
        <label key={one.value} title={one.title}>
          <input type="radio" name={name} value={one.value} checked={one.value === value} onChange={() => onValue(one.value)} />
          <span>{one.label}</span>
        </label>
      ))}
    </fieldset>
  );
}

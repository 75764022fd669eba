// An ordered list of names: added from what there is, or typed; moved, removed.
import { useId, useRef, useState } from "preact/hooks";
import { S } from "../strings/forms";
import { Badge, Button, IconButton } from "../ui";
import { described, Row, type FieldProps } from "./SchemaForm";

export interface NameOption { name: string; hint?: string }

interface NameListProps extends FieldProps {
  options: NameOption[];
  /** The order means something: the items have a number, and can be moved. */
  ordered?: boolean;
  /** A name that is not among the options may still be right (a pattern, an agent to come). */
  open?: boolean;
}

export function NameList({ options, ordered = false, open = false, ...props }: NameListProps) {
  const { form, path, shape } = props, id = useId(), list = useRef<HTMLOListElement>(null);
  const given = form.get(path), fallback = form.defaultOf(path, shape);
  const held = given ?? fallback;
  const names = Array.isArray(held) ? held.map(String) : typeof held === "string" ? [held] : [];
  const [typed, setTyped] = useState("");
  const pinned = form.pinned(path) !== null, left = options.filter((option) => !names.includes(option.name));
  const set = (next: string[]) => form.set(path, next);
  const add = (name: string) => {
    const clean = name.trim();
    if (clean !== "" && !names.includes(clean)) set([...names, clean]);
    setTyped("");
  };
  const move = (i: number, by: number) => {
    const next = [...names], [taken] = next.splice(i, 1);
    next.splice(i + by, 0, taken ?? "");
    set(next);
    // The buttons moved with the name.
    queueMicrotask(() => list.current?.children[i + by]?.querySelector<HTMLElement>(by < 0 ? "[data-up]" : "[data-down]")?.focus());
  };
  return (
    <Row {...props} id={id}>
      {names.length === 0 ? <p class="quiet names-none">{S.nothing}</p> : (
        <ol ref={list} class={`names ${ordered ? "ordered" : ""} ${given === undefined ? "inherited" : ""}`}>
          {names.map((name, i) => {
            const option = options.find((one) => one.name === name), odd = option === undefined && !open && options.length > 0;
            return (
              <li key={name}>
                <code>{name}</code>
                {odd && <Badge tone="bad">{S.unknown}</Badge>}
                <span class="quiet name-hint">{option?.hint}</span>
                {!pinned && <span class="row-actions">
                  {ordered && <>
                    <IconButton data-up icon="up" size="s" label={S.up(name)} disabled={i === 0} onClick={() => move(i, -1)} />
                    <IconButton data-down icon="down" size="s" label={S.down(name)} disabled={i === names.length - 1} onClick={() => move(i, 1)} />
                  </>}
                  <IconButton icon="close" size="s" label={S.remove(name)} onClick={() => set(names.filter((_, j) => j !== i))} />
                </span>}
              </li>
            );
          })}
        </ol>
      )}
      {!pinned && (open ? (
        <div class="schema-nullable">
          <input class="input" id={id} list={`${id}-options`} value={typed} autocomplete="off" placeholder={S.add} {...described(id, form, path)}
            onInput={(event) => setTyped(event.currentTarget.value)}
            onKeyDown={(event) => { if (event.key === "Enter") { event.preventDefault(); add(event.currentTarget.value); } }} />
          <datalist id={`${id}-options`}>{left.map((option) => <option key={option.name} value={option.name}>{option.hint}</option>)}</datalist>
          <Button size="s" icon="plus" aria-label={S.addTo(form.label(path))} disabled={typed.trim() === ""} onClick={() => add(typed)} />
        </div>
      ) : (
        <select class="input" id={id} value="" disabled={left.length === 0} {...described(id, form, path)}
          onChange={(event) => { add(event.currentTarget.value); event.currentTarget.value = ""; }}>
          <option value="">{S.add} ...</option>
          {left.map((option) => <option key={option.name} value={option.name}>{option.hint ? `${option.name}: ${option.hint}` : option.name}</option>)}
        </select>
      ))}
    </Row>
  );
}

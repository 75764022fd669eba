// A dialog with a form: Enter sends it, what the server finds wrong is shown at its field.
import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { ApiError } from "../../api";
import { S } from "../../strings/admin";
import { Button, Copy, Dialog, ErrorBox, Icon } from "../../ui";

/** What the server said of the field at `path`. */
export type ProblemOf = (path: string) => string | undefined;

interface FormDialogProps {
  title: string;
  submit: string;
  /** May throw an ApiError; else the dialog is closed, unless it returns false. */
  onSubmit: () => Promise<unknown>;
  onClose: () => void;
  /** Paths of fields that show their own problem. */
  fields?: readonly string[];
  disabled?: boolean;
  danger?: boolean;
  wide?: boolean;
  children: (problemOf: ProblemOf) => ComponentChildren;
}

export function FormDialog({ title, submit, onSubmit, onClose, fields = [], disabled = false, danger, wide, children }: FormDialogProps) {
  const [busy, setBusy] = useState(false), [error, setError] = useState<ApiError>();
  const id = useId(), there = useRef(true);
  useEffect(() => () => { there.current = false; }, []);
  const go = async (event: Event) => {
    event.preventDefault();
    if (busy || disabled) return;
    setBusy(true);
    setError(undefined);
    try {
      if ((await onSubmit()) !== false && there.current) onClose();
    } catch (failed) {
      if (!(failed instanceof ApiError)) throw failed;
      if (there.current) setError(failed);
    } finally {
      if (there.current) setBusy(false);
    }
  };
  const problemOf: ProblemOf = (path) => error?.problem.errors.find((one) => one.path === path)?.message;
  // Where each error stands at its field already, the box would say it twice.
  const atFields = error !== undefined && error.problem.errors.length > 0 && error.problem.errors.every((one) => fields.includes(one.path));
  return (
    <Dialog title={title} onClose={onClose} wide={wide ?? false} actions={<>
      <Button onClick={onClose}>{S.cancel}</Button>
      <Button type="submit" form={id} kind={danger ? "danger" : "primary"} busy={busy} disabled={disabled}>{submit}</Button>
    </>}>
      <form id={id} class="form" onSubmit={(event) => void go(event)}>{children(problemOf)}</form>
      {error && !atFields && <ErrorBox error={error} />}
    </Dialog>
  );
}

/** Something that is shown this once: a key, a secret, a link. It is gone when the dialog is closed. */
export function OnceDialog({ title, why, label, text, children, onClose }: {
  title: string; why: string; label: string; text: string; children?: ComponentChildren; onClose: () => void;
}) {
  const id = useId();
  return (
    <Dialog title={title} onClose={onClose} actions={<Button kind="primary" onClick={onClose}>{S.done}</Button>}>
      <p class="once-why"><Icon name="warn" size={16} />{why}</p>
      <label class="hidden-visually" for={id}>{label}</label>
      <div class="once">
        <input id={id} class="input mono" readOnly value={text} onFocus={(event) => event.currentTarget.select()} />
        <Copy text={text} label={S.copyThe(label)} />
      </div>
      {children}
    </Dialog>
  );
}

// Dialogs: native <dialog>, so that the rest is inert and Escape closes; the focus goes back to where it was.
import type { ComponentChildren } from "preact";
import { useEffect, useId, useLayoutEffect, useRef, useState } from "preact/hooks";
import { ApiError } from "../api";
import { S } from "../strings/ui";
import { Button, IconButton } from "./Button";
import { ErrorBox } from "./Empty";

export function Dialog({ title, onClose, children, actions, wide, class: more }: {
  title: string; onClose: () => void; children?: ComponentChildren; actions?: ComponentChildren; wide?: boolean; class?: string;
}) {
  const dialog = useRef<HTMLDialogElement>(null);
  const id = useId();
  useLayoutEffect(() => {
    const before = document.activeElement, shown = dialog.current!;
    shown.showModal();
    return () => {
      shown.close();
      if (before instanceof HTMLElement && before.isConnected) before.focus();
    };
  }, []);
  return (
    <dialog ref={dialog} class={`dialog ${wide ? "wide" : ""} ${more ?? ""}`} aria-labelledby={id}
      onCancel={(event) => { event.preventDefault(); onClose(); }}
      onClick={(event) => { if (event.target === dialog.current) onClose(); }}>
      <div class="dialog-frame">
        <header><h2 id={id}>{title}</h2><IconButton icon="close" label={S.close} onClick={onClose} /></header>
        <div class="dialog-body">{children}</div>
        {actions && <footer class="actions">{actions}</footer>}
      </div>
    </dialog>
  );
}

/** Asks before something is done; `onConfirm` may throw (ApiError), what it says is shown and the dialog stays. */
export function ConfirmDialog({ title, children, confirm, danger, onConfirm, onClose, disabled }: {
  title: string; children?: ComponentChildren; confirm: string; danger?: boolean; disabled?: boolean;
  onConfirm: () => Promise<unknown> | void; onClose: () => void;
}) {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<ApiError>();
  const there = useRef(true);
  useEffect(() => () => { there.current = false; }, []);
  const go = async () => {
    setBusy(true);
    setError(undefined);
    try {
      await onConfirm();
      if (there.current) onClose();
    } catch (failed) {
      if (!(failed instanceof ApiError)) throw failed;
      if (there.current) setError(failed);
    } finally {
      if (there.current) setBusy(false);
    }
  };
  return (
    <Dialog title={title} onClose={onClose} actions={<>
      <Button onClick={onClose}>{S.cancel}</Button>
      <Button kind={danger ? "danger" : "primary"} busy={busy} disabled={disabled ?? false} onClick={() => void go()}>{confirm}</Button>
    </>}>
      {children}
      {error && <ErrorBox error={error} />}
    </Dialog>
  );
}

// Tabs whose choice is the caller's (mostly in the URL): arrows move, as the ARIA pattern says.
import type { ComponentChildren } from "preact";
import { useId } from "preact/hooks";

export interface Tab { id: string; label: ComponentChildren; count?: number | undefined }

export function Tabs({ label, tabs, value, onValue, children }: {
  label: string; tabs: readonly Tab[]; value: string; onValue: (id: string) => void; children?: ComponentChildren;
}) {
  const base = useId();
  const move = (event: KeyboardEvent & { currentTarget: HTMLElement }) => {
    const i = tabs.findIndex((one) => one.id === value);
    const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = tabs[(to + tabs.length) % tabs.length]!;
    onValue(next.id);
    event.currentTarget.querySelector<HTMLElement>(`#${CSS.escape(`${base}-${next.id}`)}`)?.focus();
  };
  return (
    <>
      <div class="tabs" role="tablist" aria-label={label} onKeyDown={move}>
        {tabs.map((one) => (
          <button key={one.id} type="button" role="tab" id={`${base}-${one.id}`} aria-selected={one.id === value}
            aria-controls={`${base}-panel`} tabIndex={one.id === value ? 0 : -1} onClick={() => onValue(one.id)}>
            {one.label}{one.count !== undefined && " "}{one.count !== undefined && <span class="count">{one.count}</span>}
          </button>
        ))}
      </div>
      <div role="tabpanel" id={`${base}-panel`} aria-labelledby={`${base}-${value}`} class="tab-panel">{children}</div>
    </>
  );
}

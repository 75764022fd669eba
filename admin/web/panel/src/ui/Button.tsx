// Buttons, plain and with an icon alone.
import type { ButtonHTMLAttributes, ComponentChildren } from "preact";
import { Icon, type IconName } from "./Icon";

export type ButtonProps = {
  kind?: "primary" | "plain" | "quiet" | "danger";
  size?: "s" | "m";
  icon?: IconName | undefined;
  busy?: boolean;
  children?: ComponentChildren;
} & Omit<ButtonHTMLAttributes<HTMLButtonElement>, "size" | "icon">;

export function Button({ kind = "plain", size = "m", icon, busy = false, children, class: more, disabled, ...rest }: ButtonProps) {
  return (
    <button type="button" class={`button ${kind} size-${size} ${children === undefined ? "only-icon" : ""} ${more ?? ""}`}
      disabled={disabled || busy} aria-busy={busy || undefined} {...rest}>
      {icon && <Icon name={icon} size={16} />}
      {children !== undefined && <span>{children}</span>}
    </button>
  );
}

/** A button that is an icon alone; `label` is what it is called. */
export function IconButton({ label, icon, ...rest }: { label: string; icon: IconName } & Omit<ButtonProps, "children" | "icon">) {
  return <Button kind="quiet" icon={icon} aria-label={label} title={label} {...rest} />;
}

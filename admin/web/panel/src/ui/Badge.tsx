// Small marked words.
import type { ComponentChildren } from "preact";
import { Icon, type IconName } from "./Icon";

export type Tone = "plain" | "good" | "warn" | "bad" | "accent" | "user" | "agent" | "operator";

export function Badge({ tone = "plain", icon, children, title }: {
  tone?: Tone; icon?: IconName; children: ComponentChildren; title?: string;
}) {
  return <span class={`badge tone-${tone}`} title={title}>{icon && <Icon name={icon} size={12} />}{children}</span>;
}

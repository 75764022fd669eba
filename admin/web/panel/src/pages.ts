// Every page of the panel: where it is, what it is called, who may see it, and how its code is fetched.
import type { ComponentType } from "preact";
import type { IconName } from "./ui/Icon";
import type { Scope } from "./types";

/** `params` are of the path: {id} for "/sessions/:id". */
export interface PageProps { params: Record<string, string> }
type Loaded = { default: ComponentType<PageProps> } | { default: ComponentType };

export interface PageEntry {
  path: string;
  title: string;
  scope: Scope;
  load: () => Promise<Loaded>;
  /** In the rail under this heading; without it the page is only reached by links. */
  group?: "observe" | "build" | "run";
  icon?: IconName;
  /** The page whose rail entry is marked while this one is shown. */
  under?: string;
}

export const PAGES: PageEntry[] = [
  { path: "/", title: "Overview", scope: "read", group: "observe", icon: "overview", load: () => import("./pages/overview") },
  { path: "/live", title: "Live", scope: "read", group: "observe", icon: "live", load: () => import("./pages/live") },
  { path: "/sessions", title: "Sessions", scope: "read", group: "observe", icon: "sessions", load: () => import("./pages/sessions") },
  { path: "/sessions/:id", title: "Session", scope: "read", under: "/sessions", load: () => import("./pages/session") },
  { path: "/latency", title: "Latency", scope: "read", group: "observe", icon: "latency", load: () => import("./pages/latency") },
  { path: "/agents", title: "Agents", scope: "read", group: "build", icon: "agents", load: () => import("./pages/agents") },
  { path: "/agents/:name", title: "Agent", scope: "read", under: "/agents", load: () => import("./pages/agent") },
  { path: "/new-agent", title: "New agent", scope: "agents", under: "/agents", load: () => import("./pages/agent") },
  { path: "/rooms", title: "Rooms", scope: "read", group: "build", icon: "rooms", load: () => import("./pages/rooms") },
  { path: "/plugins", title: "Plugins", scope: "read", group: "build", icon: "plugins", load: () => import("./pages/plugins") },
  { path: "/plugins/:name", title: "Plugin", scope: "read", under: "/plugins", load: () => import("./pages/plugin") },
  { path: "/keys", title: "API keys", scope: "admin", group: "run", icon: "keys", load: () => import("./pages/keys") },
  { path: "/webhooks", title: "Webhooks", scope: "admin", group: "run", icon: "webhooks", load: () => import("./pages/webhooks") },
  { path: "/nodes", title: "Nodes", scope: "read", group: "run", icon: "nodes", load: () => import("./pages/nodes") },
  { path: "/users", title: "Users", scope: "admin", group: "run", icon: "users", load: () => import("./pages/users") },
  { path: "/audit", title: "Audit log", scope: "admin", group: "run", icon: "audit", load: () => import("./pages/audit") },
  { path: "/settings", title: "Settings", scope: "admin", group: "run", icon: "settings", load: () => import("./pages/settings") },
  { path: "/account", title: "Account", scope: "read", load: () => import("./pages/account") },
];

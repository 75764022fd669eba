// Icons, drawn by hand on a grid of 20, in the colour of the text.
const PATHS = {
  overview: "M3 11h4v6H3zM8 6.5h4V17H8zM13 3h4v14h-4z",
  live: "M10 10h.01M6.8 13.2a4.5 4.5 0 0 1 0-6.4M13.2 6.8a4.5 4.5 0 0 1 0 6.4M4.3 15.7a8 8 0 0 1 0-11.4M15.7 4.3a8 8 0 0 1 0 11.4",
  sessions: "M3 4.5h14v9H9l-4 3v-3H3zM6.5 8h7M6.5 10.5h4.5",
  latency: "M10 5.5V10l3 2M3 10a7 7 0 1 0 14 0 7 7 0 0 0-14 0",
  agents: "M6 7h8a2 2 0 0 1 2 2v5a2 2 0 0 1-2 2H6a2 2 0 0 1-2-2V9a2 2 0 0 1 2-2zM10 7V4M8 11v1M12 11v1M2 10.5v2M18 10.5v2",
  rooms: "M4 17V4.5L12 3v14M12 5h4v12M2.5 17h15M9 10v.5",
  plugins: "M7 3v4M13 3v4M5 7h10v3a5 5 0 0 1-10 0zM10 15v3",
  keys: "M7 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM10 9.2 16.5 3M13.5 6l2.5 2.5",
  webhooks: "M10 4a2.5 2.5 0 0 1 2 4l2.5 4.5M8 8a2.5 2.5 0 0 1 2-4M8 8l-2.5 4.5M5.5 12a2.5 2.5 0 1 0 2.4 3H14.5M14.5 12.5a2.5 2.5 0 1 1 0 5",
  nodes: "M3.5 4h13v5h-13zM3.5 11h13v5h-13zM6.5 6.5h.01M6.5 13.5h.01M10 6.5h4M10 13.5h4",
  users: "M7.5 9.5a3 3 0 1 0 0-6 3 3 0 0 0 0 6zM2.5 16.5c0-3 2-5 5-5s5 2 5 5M13 9.3a2.7 2.7 0 0 0 0-5.4M14.5 11.9c1.9.6 3 2.3 3 4.6",
  audit: "M5 3h7l3 3v11H5zM12 3v3h3M7.5 9.5h5M7.5 12.5h5",
  settings: "M4 6h7M15 6h1M11 6a2 2 0 1 0 4 0 2 2 0 0 0-4 0M4 14h1M9 14h7M5 14a2 2 0 1 0 4 0 2 2 0 0 0-4 0",
  account: "M10 10a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7zM3.5 17c0-3.5 2.8-5 6.5-5s6.5 1.5 6.5 5",
  talk: "M10 12.5a2.5 2.5 0 0 0 2.5-2.5V5.5a2.5 2.5 0 0 0-5 0V10a2.5 2.5 0 0 0 2.5 2.5zM5 10a5 5 0 0 0 10 0M10 15v2.5",
  search: "M9 15a6 6 0 1 0 0-12 6 6 0 0 0 0 12zM13.5 13.5 17 17",
  menu: "M3 5.5h14M3 10h14M3 14.5h14",
  close: "M5 5l10 10M15 5 5 15",
  check: "M4.5 10.5 8.5 14.5 15.5 6",
  warn: "M10 3.5 18 16.5H2zM10 8.5v3.5M10 14.3v.1",
  bad: "M7 3h6l4 4v6l-4 4H7l-4-4V7zM10 6.5v4M10 13.2v.1",
  info: "M3 10a7 7 0 1 0 14 0 7 7 0 0 0-14 0M10 9.2V13.5M10 6.6v.1",
  up: "M10 16V4.5M5 9.5l5-5 5 5",
  down: "M10 4v11.5M5 10.5l5 5 5-5",
  right: "M8 5l5 5-5 5",
  left: "M12 5l-5 5 5 5",
  play: "M6 4l10 6-10 6z",
  pause: "M6 4.5h2.5v11H6zM11.5 4.5H14v11h-2.5z",
  ear: "M6 8a4 4 0 1 1 8 0c0 3-3 3.5-3 6a2.2 2.2 0 0 1-4.2.8M8.2 8a1.8 1.8 0 1 1 3.6 0c0 1.4-1.5 1.6-1.8 2.8",
  whisper: "M3 4.5h14v9H9l-4 3v-3H3zM7 9h.01M10 9h.01M13 9h.01",
  say: "M3 8v4h3l4 3.5v-11L6 8zM13 7.5a3.5 3.5 0 0 1 0 5M15.2 5.5a6.5 6.5 0 0 1 0 9",
  stop: "M5 5h10v10H5z",
  hand: "M6 11V5.5a1.3 1.3 0 0 1 2.6 0V9V4a1.3 1.3 0 0 1 2.6 0v5V5a1.3 1.3 0 0 1 2.6 0v6c0 4-1.8 6-4.6 6-2.4 0-3.4-1.3-5.4-4.8-.7-1.3.9-2.3 1.8-1.2z",
  end: "M3 12.5c0-4.5 14-4.5 14 0l-1 1.5-3.5-1v-2.2c-1.6-.5-3.4-.5-5 0V13L4 14z",
  download: "M10 3v9M6 8.5l4 4 4-4M4 16.5h12",
  copy: "M7 7h9v9H7zM4 13V4h9",
  trash: "M4 5.5h12M8 5.5V3.5h4v2M5.5 5.5l.7 11h7.6l.7-11M8.5 8.5v5M11.5 8.5v5",
  tool: "M13 3a4 4 0 0 0-4 5.3l-6 6L5.7 17l6-6A4 4 0 0 0 17 7l-2.5 2.5-2-.5-.5-2L14.5 4.5z",
  bolt: "M11 2.5 4.5 11.5H9.5L9 17.5 15.5 8.5H10.5z",
  plus: "M10 4v12M4 10h12",
  edit: "M4 16l.8-3.5L13 4.3l2.7 2.7-8.2 8.2zM11.5 5.8l2.7 2.7",
  refresh: "M16 10a6 6 0 1 1-1.8-4.3L16 7.5M16 3.5v4h-4",
  external: "M11 4h5v5M16 4l-7 7M13 11.5V16H4V7h4.5",
  filter: "M3 4.5h14l-5.5 6v5L8.5 17v-6.5z",
  sun: "M10 13.5a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7zM10 2.5v1.5M10 16v1.5M2.5 10h1.5M16 10h1.5M4.7 4.7l1 1M14.3 14.3l1 1M15.3 4.7l-1 1M5.7 14.3l-1 1",
  moon: "M15.5 12.3A6.5 6.5 0 0 1 7.7 4.5a6.5 6.5 0 1 0 7.8 7.8z",
  screen: "M3 4h14v9.5H3zM7.5 17h5M10 13.5V17",
  globe: "M3 10a7 7 0 1 0 14 0 7 7 0 0 0-14 0M3 10h14M10 3c2.3 2 3 4.5 3 7s-.7 5-3 7c-2.3-2-3-4.5-3-7s.7-5 3-7",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name, size = 18, label }: { name: IconName; size?: number; label?: string | undefined }) {
  return (
    <svg class="icon" width={size} height={size} viewBox="0 0 20 20" {...(label ? { role: "img", "aria-label": label } : { "aria-hidden": "true" })}>
      <path d={PATHS[name]} fill="none" stroke="currentColor" stroke-width="1.6" stroke-linecap="round" stroke-linejoin="round" />
    </svg>
  );
}

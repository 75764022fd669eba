// Switches of this browser's preferences: the theme, and the zone of times.
import { theme, zone, type Theme, type Zone } from "../prefs";
import { useStore } from "../store";
import { S } from "../strings/shell";
import { Choice } from "./Field";
import { Icon } from "./Icon";

export function ThemeSwitch() {
  const icons = { system: "screen", light: "sun", dark: "moon" } as const;
  return <Choice<Theme> label={S.theme} value={useStore(theme)} onValue={theme.set}
    options={(["system", "light", "dark"] as const).map((value) => ({ value, label: <Icon name={icons[value]} size={16} label={S.themes[value]} />, title: S.themes[value] }))} />;
}

export function ZoneSwitch() {
  return <Choice<Zone> label={S.zone} value={useStore(zone)} onValue={zone.set}
    options={(["local", "utc"] as const).map((value) => ({ value, label: S.zones[value] }))} />;
}

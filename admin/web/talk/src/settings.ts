// The settings dialog: devices, how one talks, colours. What is chosen is kept in this browser.
import type { RejoinderClient } from "../../client/src/client";
import { TEXT } from "./strings";

interface Kept {
  push?: boolean; theme?: string; microphone?: string; speaker?: string;
  echoCancellation?: boolean; noiseSuppression?: boolean; autoGainControl?: boolean;
}
const SOUND = ["echoCancellation", "noiseSuppression", "autoGainControl"] as const;
const KEY = "rejoinder.talk";

export class SettingsDialog {
  private kept: Kept = read();
  private client: RejoinderClient | null = null;
  private readonly dialog = document.getElementById("settings") as HTMLDialogElement;
  private readonly form = this.dialog.querySelector("form")!;
  private readonly microphones = document.getElementById("microphones") as HTMLSelectElement;
  private readonly speakers = document.getElementById("speakers") as HTMLSelectElement;
  private readonly theme = document.getElementById("theme") as HTMLSelectElement;
  private readonly micMeter = document.getElementById("mic-meter")!;
  private readonly voiceMeter = document.getElementById("voice-meter")!;

  /** `onMode` is called when push-to-talk is chosen, or given up. */
  constructor(opener: HTMLElement, private readonly onMode: () => void) {
    opener.addEventListener("click", () => {
      void this.list();
      this.dialog.showModal();
    });
    this.form.addEventListener("change", ({ target }) => void this.changed(target as HTMLInputElement));
    (this.form.elements.namedItem("mode") as RadioNodeList).value = this.push ? "push" : "open";
    for (const name of SOUND) (this.form.elements.namedItem(name) as HTMLInputElement).checked = this.kept[name] ?? true;
    this.theme.value = this.kept.theme ?? "";
    this.paint();
  }

  get push(): boolean {
    return this.kept.push ?? false;
  }

  get constraints(): { deviceId?: string; echoCancellation: boolean; noiseSuppression: boolean; autoGainControl: boolean } {
    const [echoCancellation, noiseSuppression, autoGainControl] = SOUND.map((name) => this.kept[name] ?? true) as [boolean, boolean, boolean];
    return { ...(this.kept.microphone ? { deviceId: this.kept.microphone } : {}), echoCancellation, noiseSuppression, autoGainControl };
  }

  /** The chosen microphone is not there any more. */
  forgetMicrophone(): boolean {
    if (!this.kept.microphone) return false;
    this.keep({ microphone: "" });
    return true;
  }

  use(client: RejoinderClient | null): void {
    this.client = client;
    client?.on("devices", () => void this.list());
    client?.on("level", ({ source, rms }) => {
      if (this.dialog.open) (source === "microphone" ? this.micMeter : this.voiceMeter).style.setProperty("--level", String(loudness(rms)));
    });
    if (client && this.kept.speaker) client.useSpeaker(this.kept.speaker).catch(() => undefined);
    void this.list();
  }

  private async list(): Promise<void> {
    const all = (await this.client?.devices().catch(() => [])) ?? [];
    fill(this.microphones, all.filter(({ kind }) => kind === "audioinput"), this.client?.microphoneId ?? this.kept.microphone);
    fill(this.speakers, all.filter(({ kind }) => kind === "audiooutput"), this.kept.speaker);
    this.speakers.disabled ||= !("setSinkId" in AudioContext.prototype);
  }

  private async changed(input: HTMLInputElement | HTMLSelectElement): Promise<void> {
    if (input.name === "mode") {
      this.keep({ push: input.value === "push" });
      this.onMode();
    } else if (input === this.theme) {
      this.keep({ theme: input.value });
      this.paint();
    } else if (input === this.microphones) {
      this.keep({ microphone: input.value });
      await this.client?.useMicrophone(input.value).catch(() => this.list());
    } else if (input === this.speakers) {
      this.keep({ speaker: input.value });
      await this.client?.useSpeaker(input.value).catch(() => this.list());
    } else {
      this.keep({ [input.name]: (input as HTMLInputElement).checked });
      await this.client?.useMicrophone(this.kept.microphone ?? "", this.constraints).catch(() => undefined);
    }
  }

  private paint(): void {
    document.documentElement.dataset.theme = this.kept.theme ?? "";
  }

  private keep(change: Kept): void {
    this.kept = { ...this.kept, ...change };
    try {
      localStorage.setItem(KEY, JSON.stringify(this.kept));
    } catch {
      // It holds for this visit.
    }
  }
}

/** A level that moves as the ear hears it: 0 at -50 dB, 1 at -10 dB. */
export function loudness(rms: number): number {
  return Math.max(0, Math.min(1, (20 * Math.log10(rms + 1e-6) + 50) / 40));
}

function fill(select: HTMLSelectElement, devices: MediaDeviceInfo[], chosen: string | undefined): void {
  const options = devices.map(({ deviceId, label }, at) => new Option(label || TEXT.device(at + 1), deviceId));
  if (!devices.some(({ deviceId }) => deviceId === "default" || deviceId === "")) options.unshift(new Option(TEXT.defaultDevice, ""));
  select.replaceChildren(...options);
  select.disabled = devices.length === 0;
  if (chosen !== undefined && devices.some(({ deviceId }) => deviceId === chosen)) select.value = chosen;
}

function read(): Kept {
  try {
    return JSON.parse(localStorage.getItem(KEY) ?? "{}") as Kept;
  } catch {
    return {};
  }
}

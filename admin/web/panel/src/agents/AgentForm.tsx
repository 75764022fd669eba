// The form of an agent: what it says, its providers as chains, tools, turn-taking with a profile, deadlines, recording.
import { NameList, type NameOption } from "../forms/NameList";
import type { Form } from "../forms/form";
import { fieldAt, type Path, type Shape } from "../forms/schema";
import { SchemaField } from "../forms/SchemaForm";
import { S } from "../strings/agents";
import type { Agent, PluginOffer } from "../types";
import { Card } from "../ui";
import "./agents.css";

const CHAINS = ["stt", "llm", "tts", "turn", "interruption"];
const TURNS = ["profile", "min_silence_ms", "end_silence_ms", "max_silence_ms", "interrupt_ms", "min_words", "barge_in", "nudge_after_ms", "nudges", "goodbye", "on_resume"];

export function AgentForm({ form, offers, agents }: { form: Form; offers: PluginOffer | undefined; agents: Agent[] }) {
  const shape = (path: Path): Shape | null => {
    const found = fieldAt(form.shape, path);
    return found && { ...found, description: S.hints[path.join(".")] ?? found.description };
  };
  const field = (name: string, rows?: number) => {
    const path = name.split("."), found = shape(path);
    return found && <SchemaField key={name} form={form} path={path} shape={found} {...(rows ? { rows } : {})} />;
  };
  const names = (name: string, options: NameOption[], how: { ordered?: boolean; open?: boolean }) => {
    const found = shape([name]);
    return found && <NameList key={name} form={form} path={[name]} shape={found} options={options} {...how} />;
  };
  const offered = (kind: string): NameOption[] => (offers?.providers ?? []).filter((one) => one.kind === kind).map((one) => ({ name: one.name, hint: one.summary }));
  const left = (section: string, shown: string[]) => (fieldAt(form.shape, [section])?.fields ?? []).map(([name]) => name).filter((name) => !shown.includes(name)).map((name) => `${section}.${name}`);
  const wrong = (section: string) => { const problem = form.problem([section]); return problem && <p class="section-problem">{problem}</p>; };
  const known = new Set(["instructions", "greeting", "language", "voice", "vad", ...CHAINS, "tools", "transfers", "max_tokens", "temperature", "history_messages", "max_tool_rounds",
    "tool_timeout_ms", "filler_after_ms", "fillers", "turns", "deadlines", "recording"]);
  const others = form.shape.fields.map(([name]) => name).filter((name) => !known.has(name));
  return (
    <div class="stack agent-form">
      <Card title={S.sections.words}>
        <div class="stack">
          {field("instructions", 7)}
          {field("greeting", 2)}
          <div class="schema-fields">{field("language")}{field("voice")}</div>
        </div>
      </Card>
      <Card title={S.sections.providers}>
        <p class="hint card-hint">{S.sections.providersHint}</p>
        <div class="schema-fields wide">
          {CHAINS.slice(0, 3).map((kind) => names(kind, offered(kind), { ordered: true }))}
          <Single form={form} name="vad" shape={shape(["vad"])} options={offered("vad")} />
          {CHAINS.slice(3).map((kind) => names(kind, offered(kind), { ordered: true }))}
        </div>
      </Card>
      <Card title={S.sections.answer}>
        <div class="schema-fields">{["max_tokens", "temperature", "history_messages", ...others].map((name) => field(name))}</div>
      </Card>
      <Card title={S.sections.tools}>
        <div class="stack">
          <div class="schema-fields wide">
            {names("tools", (offers?.tools ?? []).map((tool) => ({ name: tool.name, hint: tool.description })), { open: true })}
            {names("transfers", agents.map((one) => ({ name: one.name, hint: S.agentNames })), { open: true })}
          </div>
          <div class="schema-fields">{["max_tool_rounds", "tool_timeout_ms", "filler_after_ms", "fillers"].map((name) => field(name))}</div>
        </div>
      </Card>
      <Card title={S.sections.turns}>
        <p class="hint card-hint">{S.sections.turnsHint}</p>
        {wrong("turns")}
        <div class="schema-fields">{TURNS.map((name) => field(`turns.${name}`))}</div>
        <details class="more-fields"><summary>{S.sections.more}</summary><div class="schema-fields">{left("turns", TURNS).map((name) => field(name))}</div></details>
      </Card>
      <div class="grid-2">
        <Card title={S.sections.deadlines}>
          <p class="hint card-hint">{S.sections.deadlinesHint}</p>
          {wrong("deadlines")}
          <div class="schema-fields">{left("deadlines", []).map((name) => field(name))}</div>
        </Card>
        <Card title={S.sections.recording}><div class="schema-fields">{left("recording", []).map((name) => field(name))}</div></Card>
      </div>
    </div>
  );
}

/** One of the providers there are: a choice whose options are not in the schema. */
function Single({ form, name, shape, options }: { form: Form; name: string; shape: Shape | null; options: NameOption[] }) {
  if (shape === null) return null;
  const chosen = form.get([name]), choices = options.map((option) => option.name);
  const all = typeof chosen === "string" && !choices.includes(chosen) ? [chosen, ...choices] : choices;
  return <SchemaField form={form} path={[name]} shape={all.length > 0 ? { ...shape, kind: "choice", choices: all } : shape} />;
}

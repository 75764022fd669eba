// What LLMs were sent, request by request: the messages with their roles, the tools, and how large it all was.
import { useState } from "preact/hooks";
import type { Got } from "../api";
import { count } from "../format";
import { S } from "../strings/session";
import type { LlmRequest } from "../types";
import { Badge, Copy, Empty, ErrorBox, Json, Loading, Time, type Tone } from "../ui";

const TONES: Record<string, Tone> = { user: "user", assistant: "agent", tool: "operator" };

export function LlmContext({ got, numbers }: { got: Got<LlmRequest[]>; numbers: ReadonlyMap<string, number> }) {
  if (got.error) return <ErrorBox error={got.error} onRetry={got.reload} />;
  if (!got.data) return <Loading />;
  if (got.data.length === 0) return <Empty title={S.llmNone} />;
  return (
    <div class="stack">
      <p class="quiet">{S.llmLead}</p>
      {got.data.map((one, i) => <Request key={`${one.reply_id} ${one.position}`} request={one} number={i + 1} turn={numbers.get(one.turn_id ?? "")} first={i === got.data!.length - 1} />)}
    </div>
  );
}

function Request({ request, number, turn, first }: { request: LlmRequest; number: number; turn: number | undefined; first: boolean }) {
  const [open, setOpen] = useState(first);
  const chars = request.messages.reduce((sum, one) => sum + one.content.length, 0);
  return (
    <details class="card llm" open={open} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>
        <strong>{S.llmRequest(number)}</strong>
        {turn !== undefined && <Badge>{S.turn(turn)}</Badge>}
        <span class="mono">{request.provider}</span>
        <span class="quiet">{S.llmMessages(request.messages.length)} · {S.llmChars(count(chars))} · {S.llmTools(request.tools.length)}</span>
        <span class="quiet"><Time at={request.at} mode="ms" /></span>
      </summary>
      {open && (
        <div class="card-body">
          <ol class="llm-messages">
            {request.messages.map((one, i) => (
              <li key={i}>
                <div class="said-head"><Badge tone={TONES[one.role] ?? "plain"}>{one.role}</Badge>{one.tool_call_id && <span class="mono quiet">{one.tool_call_id}</span>}<span class="quiet">{S.llmChars(count(one.content.length))}</span></div>
                {one.content && <pre>{one.content}</pre>}
                {one.tool_calls?.map((call) => <p key={call.id} class="mono">{S.llmCalls(call.name)} <span class="quiet">{call.id}</span><br />{call.arguments}</p>)}
              </li>
            ))}
          </ol>
          {request.tools.length > 0 && <details><summary>{S.llmTools(request.tools.length)}</summary><Json value={request.tools} open={1} /></details>}
          <p class="row quiet">{S.llmMaxTokens(request.max_tokens)} · {S.llmTemperature(request.temperature)} <Copy text={() => JSON.stringify(request, null, 2)} /></p>
        </div>
      )}
    </details>
  );
}

// What is beside a session: who, with what, how it ended and what to do, its figures, its recording, what may be deleted.
import { useState } from "preact/hooks";
import { may, send } from "../api";
import { browserOf, bytes, clock, count, duration } from "../format";
import { Link, navigate } from "../router";
import { S } from "../strings/session";
import type { Json as JsonValue, Recording, ServerEvent, SessionDetail } from "../types";
import { Badge, Button, Card, ConfirmDialog, Copy, Icon, Ms, Time, toast } from "../ui";
import { codeMeans, endOf } from "./reasons";

export function Side({ detail, events, onChange }: { detail: SessionDetail; events: readonly ServerEvent[]; onChange: () => void }) {
  const { session, live, recording } = detail;
  const end = endOf(session.end_reason, live);
  const errors = events.filter((one) => one.type === "error");
  const icon = ({ good: "live", warn: "warn", bad: "bad" } as const)[end.tone as "good"] ?? "info";
  return (
    <aside class="side" aria-label={S.about}>
      <Card title={S.ended_}>
        <p class={`end-line tone-text-${end.tone}`}><Icon name={icon} size={16} /><span>{end.text}</span></p>
        {session.end_reason !== null && <p><code>{session.end_reason}</code></p>}
        {end.next && <p class="quiet">{end.next}</p>}
        {errors.length > 0 && (
          <div class="side-errors">
            <h3>{S.errors}</h3>
            <ul>{grouped(errors).map(({ event, n }) => (
              <li key={`${String(event["code"])}${String(event["message"])}`}>
                <Badge tone="bad">{String(event["code"])}</Badge>{n > 1 && <span class="quiet"> ×{n}</span>}
                <p>{String(event["message"] ?? "")}</p>
                <p class="quiet">{codeMeans(String(event["code"])) || String(event["fix"] ?? "")}</p>
              </li>
            ))}</ul>
          </div>
        )}
      </Card>
      <Card title={S.about}>
        <dl class="pairs">
          <dt>{S.agentVersion}</dt><dd>{session.agent ? <Link to={`/agents/${encodeURIComponent(session.agent)}`}>{session.agent}</Link> : "–"} <span class="quiet">{S.version(session.agent_version)}</span></dd>
          <dt>{S.started}</dt><dd><Time at={session.started_at} mode="full" /></dd>
          {session.ended_at !== null && <><dt>{S.lasted}</dt><dd>{clock(session.ended_at - session.started_at)}</dd></>}
          {session.channel && <><dt>{S.channel}</dt><dd>{session.channel}</dd></>}
          {session.client && <><dt>{S.client}</dt><dd title={session.client}>{browserOf(session.client)}</dd></>}
          {session.input_rate > 0 && <><dt>{S.rates}</dt><dd>{S.ratesOf(session.input_rate, session.output_rate)}</dd></>}
          {session.room_id && <><dt>{S.room}</dt><dd><code>{session.room_id}</code></dd></>}
          <dt>{S.id}</dt><dd><code>{session.id}</code> <Copy text={session.id} /></dd>
        </dl>
      </Card>
      <Card title={S.metrics}>
        <dl class="pairs">
          <dt>{S.median}</dt><dd><Ms us={session.p50_us} /></dd>
          <dt>{S.slowest}</dt><dd><Ms us={session.max_us} /></dd>
          {Object.entries(session.metrics ?? {}).map(([name, value]) => <Figure key={name} name={name} value={value} />)}
          {!session.metrics && <><dt>{S.figure["turns"]}</dt><dd>{count(session.turns)}</dd><dt>{S.figure["interruptions"]}</dt><dd>{count(session.interruptions)}</dd></>}
        </dl>
      </Card>
      {recording && <RecordingCard recording={recording} onChange={onChange} />}
      {may("admin") && !live && <DeleteSession id={session.id} />}
    </aside>
  );
}

function grouped(errors: readonly ServerEvent[]): { event: ServerEvent; n: number }[] {
  const found = new Map<string, { event: ServerEvent; n: number }>();
  for (const event of errors) {
    const key = `${String(event["code"])} ${String(event["message"])}`;
    const there = found.get(key);
    if (there) there.n += 1;
    else found.set(key, { event, n: 1 });
  }
  return [...found.values()].slice(0, 10);
}

function Figure({ name, value }: { name: string; value: JsonValue }) {
  if (value === null || value === 0) return null;
  if (typeof value === "object") {
    const parts = Object.entries(value);
    if (parts.length === 0) return null;
    return <><dt>{S.figure[name] ?? name}</dt><dd>{parts.map(([what, n]) => <div key={what}>{what}: {String(n)}</div>)}</dd></>;
  }
  return <><dt>{S.figure[name] ?? name}</dt><dd>{typeof value === "number" ? count(value) : String(value)}</dd></>;
}

function RecordingCard({ recording, onChange }: { recording: Recording; onChange: () => void }) {
  const [asks, setAsks] = useState(false);
  return (
    <Card title={S.recording} actions={may("admin") && recording.available && <Button size="s" kind="danger" icon="trash" onClick={() => setAsks(true)}>{S.deleteRecording}</Button>}>
      {recording.deleted_at !== null ? <p>{S.deletedAt} <Time at={recording.deleted_at} mode="full" /></p> : (
        <p>{recording.duration_ms !== null && <>{duration(recording.duration_ms)} · </>}{recording.bytes !== null && <>{bytes(recording.bytes)} · </>}
          {recording.expires_at === null ? S.keptForever : <>{S.keptUntil} <Time at={recording.expires_at} mode="full" /></>}</p>
      )}
      {asks && <ConfirmDialog title={S.deleteRecordingTitle} confirm={S.delete} danger onClose={() => setAsks(false)}
        onConfirm={async () => { await send("DELETE", `/v1/sessions/${recording.session_id}/recording`); toast(S.deleted); onChange(); }}><p>{S.deleteRecordingText}</p></ConfirmDialog>}
    </Card>
  );
}

function DeleteSession({ id }: { id: string }) {
  const [asks, setAsks] = useState(false);
  return (
    <div>
      <Button kind="danger" icon="trash" onClick={() => setAsks(true)}>{S.deleteSession}</Button>
      {asks && <ConfirmDialog title={S.deleteSessionTitle} confirm={S.delete} danger onClose={() => setAsks(false)}
        onConfirm={async () => { await send("DELETE", `/v1/sessions/${id}`); toast(S.deleted); navigate("/sessions", { replace: true }); }}><p>{S.deleteSessionText}</p></ConfirmDialog>}
    </div>
  );
}

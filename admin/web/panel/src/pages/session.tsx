// A session: its sound and timeline with one playhead, what was said, where the time went, its events, what LLMs were sent.
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { get, may, useGet } from "../api";
import { clock } from "../format";
import { save } from "../export";
import { Link, useQuery } from "../router";
import { Events } from "../session/Events";
import { LlmContext } from "../session/LlmContext";
import { Side } from "../session/Side";
import { Transcript } from "../session/Transcript";
import { TurnDetail } from "../session/TurnDetail";
import { Waveform, levelsOf } from "../session/Waveform";
import { mergeTurns, report, useEvents } from "../session/data";
import { Player } from "../session/player";
import { timeline, turnAt, vtt } from "../session/timeline";
import { S } from "../strings/session";
import type { Json as JsonValue, LlmRequest, Peaks, SessionDetail, Turn } from "../types";
import { Badge, Button, Card, DataTable, Empty, ErrorBox, Json, Loading, Ms, Page, Tabs, Time, toastError, type Column } from "../ui";
import "./session.css";

type TabId = keyof typeof S.tabs;
const TABS = Object.keys(S.tabs) as TabId[];

export default function SessionPage({ params }: { params: Record<string, string> }) {
  const id = params["id"]!;
  return <Shown key={id} id={id} />;
}

function Shown({ id }: { id: string }) {
  const got = useGet<SessionDetail>(`/v1/sessions/${encodeURIComponent(id)}`);
  const detail = got.data;
  const { log, version, loaded, over, error } = useEvents(id, detail?.live ?? false);
  useEffect(() => {
    if (!over) return;
    // Its last rows are written in a moment.
    const timer = setTimeout(got.reload, 1500);
    return () => clearTimeout(timer);
  }, [over]);
  if (got.error && !detail) {
    return <Page title={S.title}>{got.error.status === 404 ? <Empty title={S.gone}><Link to="/sessions">{"Sessions"}</Link></Empty> : <ErrorBox error={got.error} onRetry={got.reload} />}</Page>;
  }
  if (!detail || !loaded) return <Page title={S.title}><Loading lines={8} /></Page>;
  return <Detail detail={detail} log={log} version={version} live={detail.live && !over && log.ended === null} eventsError={error} reload={got.reload} />;
}

function Detail({ detail, log, version, live, eventsError, reload }: {
  detail: SessionDetail; log: ReturnType<typeof useEvents>["log"]; version: number; live: boolean; eventsError: Error | undefined; reload: () => void;
}) {
  const query = useQuery();
  const { session, recording } = detail;
  const asked = query.get("tab") as TabId, tab: TabId = TABS.includes(asked) ? asked : "timeline";
  const open = query.get("turn") || null;
  const turns = useMemo(() => mergeTurns(detail.turns, log), [detail.turns, version]);
  const sound = recording?.available && may("listen") ? recording : null;
  const lastAt = log.events.at(-1)?.at ?? session.started_at;
  const now = useSecond(live);
  const made = useMemo(() => timeline(log.events, turns, {
    start: sound?.started_at ?? session.started_at,
    end: sound ? sound.started_at + (sound.duration_ms ?? 0) : Math.max(session.ended_at ?? 0, lastAt, live ? now : 0, session.started_at + 1000),
  }), [version, turns, sound?.started_at, session.ended_at, live, now]);
  const peaks = useGet<Peaks>(sound ? `/v1/sessions/${session.id}/recording/peaks` : null);
  const levels = useMemo(() => (peaks.data ? levelsOf(peaks.data) : undefined), [peaks.data]);
  const llm = useGet<LlmRequest[]>(tab === "llm" || tab === "raw" ? `/v1/sessions/${session.id}/llm` : null);
  const numbers = useMemo(() => new Map(turns.map((turn) => [turn.id, turn.number])), [turns]);

  const [player] = useState(() => new Player());
  useLayoutEffect(() => player.load(sound ? `/v1/sessions/${session.id}/recording` : null, made.end - made.start), [player, sound?.session_id, made.end, made.start]);
  useEffect(() => () => player.close(), [player]);
  useKeys(player);
  const current = usePlace(player, (at) => (at > 0 || player.playing.get() ? turnAt(made.bands, made.start + at) : null));
  const atSeq = usePlace(player, (at) => {
    if (tab !== "events" || at === 0) return 0;
    let seq = 0;
    for (const event of log.events) { if (event.at > made.start + at) break; seq = event.seq; }
    return seq;
  });
  const seek = (at: number) => player.seek(at - made.start);
  const openTurn = (turn: string | null) => query.set({ turn: turn === open ? null : turn });
  const placeOf = (turn: Turn, side: "user" | "agent") => made.segments.find((one) => one.turn === turn.id && one.side === side)?.from ?? turn.committed_at;
  const opened = turns.find((turn) => turn.id === open);
  const whole = () => report(detail, log.events, llm.data ?? null);
  const downloadJson = async () => {
    try {
      const sent = llm.data ?? await get<LlmRequest[]>(`/v1/sessions/${session.id}/llm`);
      save(`${session.id}.json`, "application/json", JSON.stringify(report(detail, log.events, sent), null, 2));
    } catch (failed) { toastError(failed); }
  };
  const detailOf = opened && <TurnDetail key={opened.id} turn={opened} agent={session.agent} onClose={() => openTurn(null)} />;

  return (
    <Page title={session.agent || S.title} wide
      lead={<span class="row"><Time at={session.started_at} mode="full" />{session.ended_at !== null && <span>{clock(session.ended_at - session.started_at)}</span>}
        {live && <Badge tone="good" icon="live">{S.live}</Badge>}{session.channel && <Badge>{session.channel}</Badge>}{recording?.available && <Badge>{S.recorded}</Badge>}
        {log.operator !== null && live && <Badge tone="operator" icon="account">{log.operator}</Badge>}</span>}
      actions={<>
        {live && may("read") && <Link class="button" to={`/live?session=${session.id}`}>{S.steer}</Link>}
        {sound && <a class="button" href={`/v1/sessions/${session.id}/recording?download=true`} download>{S.wav}</a>}
        <Button icon="download" onClick={() => void downloadJson()}>{S.json}</Button>
        <Button icon="download" onClick={() => save(`${session.id}.vtt`, "text/vtt", vtt(made, turns))}>{S.vtt}</Button>
      </>}>
      {eventsError && <ErrorBox error={eventsError} />}
      <Card>
        {(sound || made.segments.length > 0) && <Waveform made={made} levels={levels} player={player} onTurn={openTurn} />}
        {!sound && <p class="hint">{!recording ? (made.segments.length > 0 ? S.noRecording : S.noSound) : recording.deleted_at !== null ? S.recordingGone : !recording.available ? S.recordingLater : S.noListen}</p>}
      </Card>
      <div class="session-columns">
        <div class="session-main">
          <Tabs label={S.tabsLabel} value={tab} onValue={(value) => query.set({ tab: value === "timeline" ? null : value, turn: null, type: null, contains: null })}
            tabs={TABS.map((one) => ({ id: one, label: S.tabs[one], count: { turns: turns.length, events: log.events.length }[one as string] }))}>
            {tab === "timeline" && (
              <div class={`timeline-view ${opened ? "with-turn" : ""}`}>
                {detailOf}
                <Card><Transcript turns={turns} start={made.start} current={current} open={open} onOpen={openTurn} onSeek={seek} placeOf={placeOf} log={log} live={live} /></Card>
              </div>
            )}
            {tab === "turns" && <div class="stack">{detailOf}<TurnTable turns={turns} open={open} onOpen={openTurn} id={session.id} /></div>}
            {tab === "events" && <Events events={log.events} version={version} start={made.start} atSeq={atSeq} onSeek={seek} />}
            {tab === "llm" && <LlmContext got={llm} numbers={numbers} />}
            {tab === "raw" && <div class="stack"><p class="row"><span class="quiet">{S.rawLead}</span><Button size="s" icon="download" onClick={() => void downloadJson()}>{S.download}</Button></p>
              <Card><Json value={whole() as JsonValue} open={2} /></Card></div>}
          </Tabs>
        </div>
        <Side detail={{ ...detail, live }} events={log.events} onChange={reload} />
      </div>
    </Page>
  );
}

function TurnTable({ turns, open, onOpen, id }: { turns: readonly Turn[]; open: string | null; onOpen: (turn: string) => void; id: string }) {
  const columns: Column<Turn>[] = [
    { key: "number", title: "#", cell: (turn) => turn.number, value: (turn) => turn.number, align: "right" },
    { key: "at", title: "Time", cell: (turn) => <Time at={turn.committed_at} mode="time" />, value: (turn) => turn.committed_at, sortable: false },
    { key: "response", title: "Response", cell: (turn) => <Ms us={turn.response_us} />, value: (turn) => turn.response_us, align: "right" },
    { key: "user", title: S.user, cell: (turn) => turn.user_text ?? "", value: (turn) => turn.user_text, grow: true, sortable: false },
    { key: "reply", title: S.agent, cell: (turn) => turn.heard_text ?? turn.reply_text ?? "", value: (turn) => turn.heard_text, grow: true, sortable: false, wideOnly: true },
    { key: "outcome", title: "Outcome", cell: (turn) => turn.reply_reason ?? "–", value: (turn) => turn.reply_reason },
    { key: "tools", title: "Tools", cell: (turn) => turn.tool_calls.length || "", value: (turn) => turn.tool_calls.length, align: "right", wideOnly: true },
  ];
  return <Card flush><DataTable label={S.tabs.turns} columns={columns} rows={turns} rowKey={(turn) => turn.id} onOpen={(turn) => onOpen(turn.id)} current={open ?? undefined} exportName={`${id}-turns`} /></Card>;
}

/** A value of the playhead's place; draws again only when it changes. */
function usePlace<T>(player: Player, of: (at: number) => T): T {
  const newest = useRef(of);
  newest.current = of;
  const [, redraw] = useState(0);
  const value = of(player.at.get()), last = useRef(value);
  last.current = value;
  useEffect(() => player.at.watch((at) => {
    if (newest.current(at) !== last.current) redraw((n) => n + 1);
  }), [player]);
  return value;
}

/** Space and K play, J and L go back and on; not where something is typed or clicked. */
function useKeys(player: Player): void {
  useLayoutEffect(() => {
    const key = (event: KeyboardEvent) => {
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
      const target = event.target as Element;
      if (target.closest("input, textarea, select, dialog")) return;
      if (event.key === " " && target.closest("button, a, summary, [role=tab]")) return;
      if (event.key === " " || event.key === "k") player.toggle();
      else if (event.key === "j") player.seek(player.at.get() - 5000);
      else if (event.key === "l") player.seek(player.at.get() + 5000);
      else return;
      event.preventDefault();
    };
    addEventListener("keydown", key);
    return () => removeEventListener("keydown", key);
  }, [player]);
}

/** Now, each second; only while `runs`. */
function useSecond(runs: boolean): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    if (!runs) return;
    const timer = setInterval(() => setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, [runs]);
  return now;
}

// One live session: what is said, and what an operator may do in it.
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { ApiError, may, me, send } from "../api";
import { Link } from "../router";
import { Transcript } from "../session/Transcript";
import { useEvents } from "../session/data";
import { useStore } from "../store";
import { S } from "../strings/live";
import type { Live } from "../types";
import { Badge, Button, Choice, ConfirmDialog, ErrorBox, Field, IconButton, Icon, Loading, TextArea, toast, toastError } from "../ui";
import { Lease } from "./lease";
import { Listening, type Balance } from "./listening";
import { DOING } from "./Table";

export function Drawer({ id, row, onClose }: { id: string; row: Live | undefined; onClose: () => void }) {
  const { log, loaded, error, over, version } = useEvents(id, true);
  const box = useRef<HTMLElement>(null), scroll = useRef<HTMLDivElement>(null);
  const [follows, setFollows] = useState(true);
  const ended = over || log.ended !== null;
  const doing = row?.doing ?? log.doing;
  useEffect(() => {
    const key = (event: KeyboardEvent) => { if (event.key === "Escape" && !event.defaultPrevented && !(event.target as Element).closest("dialog")) onClose(); };
    addEventListener("keydown", key);
    return () => removeEventListener("keydown", key);
  }, [onClose]);
  useLayoutEffect(() => { if (follows && scroll.current) scroll.current.scrollTop = scroll.current.scrollHeight; }, [version, follows, loaded]);
  const scrolled = () => { const s = scroll.current!; setFollows(s.scrollHeight - s.scrollTop - s.clientHeight < 40); };
  return (
    <aside class="drawer" ref={box} aria-label={S.drawer}>
      <header class="drawer-head">
        <div><h2>{row?.agent || log.agent || id}</h2><Link to={`/sessions/${id}`} class="mono drawer-id">{id}</Link></div>
        {!ended && <Badge tone={DOING[doing].tone} icon={DOING[doing].icon}>{S.doing[doing]}</Badge>}
        {row !== undefined && row.listeners > 0 && <Badge icon="ear">{S.listeners(row.listeners)}</Badge>}
        <span class="spacer" />
        <IconButton icon="close" label={S.close} onClick={onClose} />
      </header>
      <div class="drawer-talk" ref={scroll} onScroll={scrolled} tabIndex={0} role="region" aria-label={S.transcript}>
        {error ? <ErrorBox error={error} /> : !loaded ? <Loading /> : <Transcript turns={log.turns} start={log.events[0]?.at ?? 0} log={log} live={!ended} />}
      </div>
      {!follows && <Button size="s" icon="down" class="drawer-follow" onClick={() => setFollows(true)}>{S.follow}</Button>}
      <Spoken log={log} version={version} />
      {ended ? <p class="drawer-over" role="status">{log.ended ? S.overReason(log.ended) : S.over} <Link to={`/sessions/${id}`}>{S.openPage}</Link></p>
        : <Actions key={id} id={id} operator={row?.operator ?? log.operator} onEnd={() => box.current?.focus()} />}
    </aside>
  );
}

/** For screen readers: whole sentences that are over, not each word as it comes. */
function Spoken({ log, version }: { log: ReturnType<typeof useEvents>["log"]; version: number }) {
  const told = useRef(0);
  const [lines, setLines] = useState<string[]>([]);
  useEffect(() => {
    const fresh = log.events.filter((event) => event.seq > told.current);
    const first = told.current === 0;
    told.current = log.lastSeq;
    if (first) return;
    const said = fresh.flatMap((event) => (event.type === "turn.committed" ? [`${S.user}: ${String(event["text"])}`]
      : event.type === "reply.finished" ? [`${S.agent}: ${String(event["heard_text"])}`] : []));
    if (said.length > 0) setLines((was) => [...was, ...said].slice(-5));
  }, [version]);
  return <div class="hidden-visually" role="log" aria-label={S.transcript}>{lines.map((line, i) => <p key={i}>{line}</p>)}</div>;
}

function Actions({ id, operator }: { id: string; operator: string | null; onEnd: () => void }) {
  const path = `/v1/sessions/${encodeURIComponent(id)}`;
  const [lease] = useState(() => new Lease(id)), [listening] = useState(() => new Listening());
  const held = useStore(lease.held), lost = useStore(lease.lost);
  const [kind, setKind] = useState<"say" | "whisper">("whisper");
  const [text, setText] = useState("");
  const [busy, setBusy] = useState("");
  const [ends, setEnds] = useState(false), [reason, setReason] = useState(S.endDefault);
  const [forces, setForces] = useState(false);
  const field = useRef<HTMLDivElement>(null);
  useEffect(() => () => { lease.close(); listening.stop(); }, [lease, listening]);
  useEffect(() => lease.heldBy(operator), [operator]);
  useEffect(() => { if (lost) toastError(lost); }, [lost]);
  const mine = me.get()?.user.name ?? "";
  const other = operator !== null && operator !== mine ? operator : null;
  const control = may("control"), talk = may("talk");

  const run = async (what: string, doIt: () => Promise<unknown>, done?: string) => {
    setBusy(what);
    try {
      await doIt();
      if (done) toast(done);
      return true;
    } catch (failed) {
      if (!(failed instanceof ApiError)) throw failed;
      toastError(failed);
      return false;
    } finally { setBusy(""); }
  };
  const how = kind;
  const submit = async (event?: Event) => {
    event?.preventDefault();
    const words = text.trim();
    if (!words || busy) return;
    if (await run("send", () => send("POST", `${path}/${how}`, { text: words }), how === "whisper" ? S.whispered : undefined)) setText("");
    field.current?.querySelector("textarea")?.focus();
  };
  const take = async () => {
    if (await run("take", () => lease.take())) { setKind("say"); field.current?.querySelector("textarea")?.focus(); }
  };
  const giveBack = async () => { if (await run("take", () => lease.handBack(), S.handedBack)) setKind("whisper"); };
  if (!control && !talk && !may("listen")) return null;
  return (
    <div class={`drawer-acts ${held ? "held" : ""}`}>
      {held && <p class="drawer-note operator" role="status"><Icon name="account" size={16} />{S.youHold}</p>}
      {!held && operator === mine && operator !== "" && <p class="drawer-note operator"><Icon name="account" size={16} />{S.youHoldElsewhere}</p>}
      {other !== null && <p class="drawer-note"><Icon name="account" size={16} />{S.holds(other)} {control && may("admin") && <Button size="s" onClick={() => setForces(true)}>{S.force(other)}</Button>}</p>}
      {control && (
        <form class="composer" onSubmit={(event) => void submit(event)}>
          <Choice<"say" | "whisper"> label={S.kind} value={how} onValue={setKind}
            options={[{ value: "say", label: <><Icon name="say" size={14} /> {S.say}</> }, { value: "whisper", label: <><Icon name="whisper" size={14} /> {S.whisper}</> }]} />
          <div class="composer-text" ref={field}>
            <TextArea label={S.text} hideLabel rows={held ? 3 : 2} maxLength={4000} value={text} onValue={setText} disabled={other !== null && how === "say"}
              placeholder={held && how === "say" ? S.operatorPlaceholder : how === "say" ? S.sayPlaceholder : S.whisperPlaceholder}
              onKeyDown={(event: KeyboardEvent) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); void submit(); } }} />
            <Button kind="primary" type="submit" busy={busy === "send"} disabled={!text.trim() || (other !== null && how === "say")}>{how === "say" ? S.say : S.whisper}</Button>
          </div>
          {!(held && how === "say") && <p class="hint">{how === "say" ? S.sayHint : S.whisperHint}</p>}
        </form>
      )}
      <div class="actions">
        {control && (held ? <Button icon="hand" kind="primary" busy={busy === "take"} onClick={() => void giveBack()}>{S.handBack}</Button>
          : <Button icon="account" busy={busy === "take"} disabled={other !== null} onClick={() => void take()}>{S.takeOver}</Button>)}
        {talk && <Button icon="stop" busy={busy === "interrupt"} onClick={() => void run("interrupt", () => send("POST", `${path}/interrupt`), S.interrupted)}>{S.interrupt}</Button>}
        {may("listen") && <Ear id={id} listening={listening} />}
        {talk && <Button icon="end" kind="danger" onClick={() => setEnds(true)}>{S.end}</Button>}
      </div>
      {ends && (
        <ConfirmDialog title={S.endTitle} confirm={S.endConfirm} danger disabled={!reason.trim()} onClose={() => setEnds(false)}
          onConfirm={async () => { await send("POST", `${path}/end`, { reason: reason.trim() }); toast(S.ending); }}>
          <p>{S.endText}</p><Field label={S.endReason} value={reason} onValue={setReason} maxLength={80} />
        </ConfirmDialog>
      )}
      {forces && other !== null && (
        <ConfirmDialog title={S.forceTitle} confirm={S.force(other)} onClose={() => setForces(false)} onConfirm={async () => { await lease.take(true); setKind("say"); }}>
          <p>{S.forceText(other)}</p>
        </ConfirmDialog>
      )}
    </div>
  );
}

function Ear({ id, listening }: { id: string; listening: Listening }) {
  const state = useStore(listening.state), balance = useStore(listening.balance), ended = useStore(listening.ended);
  const start = () => listening.start(id).catch(toastError);
  useEffect(() => { if (ended) toast(ended); }, [ended]);
  if (state === "off") return <Button icon="ear" onClick={() => void start()}>{S.listen}</Button>;
  return (
    <>
      <Button icon="ear" aria-pressed="true" onClick={() => listening.stop()}>{state === "connecting" ? S.connecting : S.stopListening}</Button>
      <div class="ear">
        <p class="hint">{S.listening}</p>
        <Meter listening={listening} side="user" /><Meter listening={listening} side="agent" />
        <Choice<Balance> label={S.balance} value={balance} onValue={(value) => listening.setBalance(value)}
          options={(["sides", "centre"] as const).map((value) => ({ value, label: S.balancesShort[value], title: S.balances[value] }))} />
      </div>
    </>
  );
}

/** Moves without drawing anything else. */
function Meter({ listening, side }: { listening: Listening; side: "user" | "agent" }) {
  const bar = useRef<HTMLDivElement>(null);
  useEffect(() => listening.level.watch((level) => {
    // In decibels from -50 to 0, as loudness is heard.
    const shown = Math.max(0, Math.min(1, 1 + (20 * Math.log10(Math.max(level[side], 1e-5))) / 50));
    bar.current?.style.setProperty("transform", `scaleX(${shown.toFixed(3)})`);
  }), [listening, side]);
  const name = side === "user" ? S.user : S.agent;
  return <div class={`meter ${side}`}><span>{name}</span><div class="meter-track" role="img" aria-label={S.level(name)}><div ref={bar} /></div></div>;
}

// The live board: all sessions there are now, and a drawer to watch and steer one of them.
import { useCallback, useRef, useState } from "preact/hooks";
import { navigate, useQuery, whereNow, withChanges } from "../router";
import { useConnected, useTopic } from "../stream";
import { S } from "../strings/live";
import { Drawer } from "../live/Drawer";
import { LiveTable } from "../live/Table";
import { apply, arranged, type Order } from "../live/board";
import type { Live, LiveUpdate } from "../types";
import { Card, Empty, Field, Icon, Loading, Page, Select } from "../ui";
import "./session.css";
import "./live.css";

export default function LivePage() {
  const query = useQuery(), rows = useRef(new Map<string, Live>());
  const [version, setVersion] = useState(0);
  useTopic<LiveUpdate>("live", (update) => { apply(rows.current, update); setVersion((n) => n + 1); });
  const lost = useConnected() === false;
  const open = query.get("session") || null, words = query.get("filter");
  const order = (query.get("sort") in S.sorts ? query.get("sort") : "started") as Order;
  const shown = arranged(rows.current.values(), words, order, query.get("operated") === "true");
  const hrefOf = useCallback((id: string) => `/live${withChanges(whereNow().search, { session: id })}`, []);
  const close = useCallback(() => {
    const id = new URLSearchParams(whereNow().search).get("session");
    navigate(`/live${withChanges(whereNow().search, { session: null })}`, { replace: true });
    if (id) requestAnimationFrame(() => document.querySelector<HTMLElement>(`[data-id="${CSS.escape(id)}"] .row-open`)?.focus());
  }, []);
  return (
    <div class={`live ${open ? "with-drawer" : ""}`}>
      <Page title={S.title} wide lead={version > 0 && S.count(shown.length, rows.current.size)} tools={<>
        <Field label={S.filter} hideLabel type="search" placeholder={S.filterHint} value={words} onValue={(value) => query.set({ filter: value })} />
        <Select label={S.sort} hideLabel value={order} onValue={(value) => query.set({ sort: value === "started" ? null : value })} options={Object.entries(S.sorts).map(([value, label]) => ({ value, label }))} />
      </>}>
        {lost && <p class="stream-lost" role="status"><Icon name="warn" size={16} />{S.lost}</p>}
        <Card flush>
          {version === 0 ? <Loading lines={6} /> : shown.length === 0
            ? <Empty icon="live" title={rows.current.size ? S.noneFits : S.none}>{rows.current.size === 0 && S.noneHint}</Empty>
            : <LiveTable rows={shown} open={open} hrefOf={hrefOf} />}
        </Card>
      </Page>
      {open && <Drawer key={open} id={open} row={rows.current.get(open)} onClose={close} />}
    </div>
  );
}

// Tries a draft: a room of its own for what stands there, opened in a new tab; nothing is saved.
import { useState } from "preact/hooks";
import { may, send } from "../api";
import { Link } from "../router";
import { S } from "../strings/agents";
import type { Room } from "../types";
import { Button } from "../ui";
import type { Draft } from "./useDraft";

/** `stored`: there is an agent of this name, which the draft changes; else the draft is all there is. */
export function TryButton({ name, draft, disabled, stored }: { name: string; draft: Draft; disabled: boolean; stored: boolean }) {
  const asDraft = draft.changed || !stored;
  const [room, setRoom] = useState<{ room: Room; opened: boolean } | null>(null);
  const go = async () => {
    const made = await draft.run(() => send<Room>("POST", "/v1/rooms", { agent: name, role: "speaker", ...(asDraft ? { draft: draft.values } : {}) }));
    if (made?.join.page === undefined) return;
    const tab = open(made.join.page, "_blank");
    if (tab !== null) tab.opener = null;
    setRoom({ room: made, opened: tab !== null });
  };
  if (!may("talk") || (asDraft && !may("agents"))) return null;
  return (
    <>
      {room && (
        <span class="try-told" role="status">
          {room.opened ? S.tried : <>{S.triedBlocked} <a href={room.room.join.page ?? ""} target="_blank" rel="noopener">{S.openIt}</a></>}{" "}
          <Link to={`/sessions/${room.room.session_id}`}>{S.follow}</Link>
        </span>
      )}
      <Button icon="talk" busy={draft.busy} disabled={disabled} title={S.tryHint} onClick={() => void go()}>{asDraft ? S.tryDraft : S.tryIt}</Button>
    </>
  );
}

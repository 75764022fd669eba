// What stands where there is nothing, something went wrong, or it is not there yet.
import type { ComponentChildren } from "preact";
import { ApiError } from "../api";
import { S } from "../strings/ui";
import { Button } from "./Button";
import { Icon, type IconName } from "./Icon";

export function Empty({ title, icon, children }: { title?: string; icon?: IconName; children?: ComponentChildren }) {
  return (
    <div class="empty">
      {icon && <Icon name={icon} size={28} />}
      <p class="empty-title">{title ?? S.nothing}</p>
      {children && <div class="empty-more">{children}</div>}
    </div>
  );
}

/** What went wrong, why, and what to do. `plain`: for mistakes of people, which nobody has to look up. */
export function ErrorBox({ error, onRetry, plain }: { error: ApiError | Error | string; onRetry?: () => void; plain?: boolean }) {
  const problem = error instanceof ApiError ? error.problem : undefined;
  const what = typeof error === "string" ? error : error.message;
  return (
    <div class="error-box" role="alert">
      <Icon name="bad" label={S.error} />
      <div>
        <p class="what">{what}</p>
        {problem?.fix && <p class="fix">{problem.fix}</p>}
        {problem && problem.errors.length > 0 && (
          <ul>{problem.errors.map((one) => <li key={one.path + one.message}><code>{one.path}</code> {one.message}</li>)}</ul>
        )}
        {problem && !plain && <p class="codes"><code>{problem.code}</code>{problem.request_id && <> · {S.request} <code>{problem.request_id}</code></>}</p>}
      </div>
      {onRetry && <Button size="s" onClick={onRetry}>{S.retry}</Button>}
    </div>
  );
}

export function Loading({ lines = 3 }: { lines?: number }) {
  return (
    <div class="skeleton" aria-busy="true">
      <span class="hidden-visually">{S.loading}</span>
      {Array.from({ length: lines }, (_, i) => <div key={i} class="bone" aria-hidden="true" />)}
    </div>
  );
}

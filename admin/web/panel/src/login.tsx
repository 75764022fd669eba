// The login, and what a link (#token=) leads to: choose a password, be logged in.
import { useEffect, useState } from "preact/hooks";
import { ApiError, me, send } from "./api";
import { navigate } from "./router";
import { S as SHELL } from "./strings/shell";
import { S } from "./strings/login";
import type { Me } from "./types";
import { Button, ErrorBox, Field } from "./ui";

/** The token of the link that led here, taken out of the address (and so of the history) at once. */
let taken = takeToken();

function takeToken(): string | null {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token !== null) history.replaceState(null, "", location.pathname + location.search);
  return token;
}

addEventListener("hashchange", () => {
  const token = takeToken();
  if (token !== null) { taken = token; navigate(location.pathname.replace(/^\/admin/, "") + location.search, { replace: true }); }
});

export const hasLink = (): boolean => taken !== null;

export function LoginPage({ next }: { next: string }) {
  const [link, setLink] = useState(taken);
  useEffect(() => { document.title = `${link ? S.welcome : S.title} - ${SHELL.product}`; }, [link]);
  const done = (who: Me) => { taken = null; me.set(who); navigate(next, { replace: true }); };
  return (
    <main class="login" id="main">
      <div class="login-box">
        <p class="login-brand">{SHELL.product}</p>
        {link !== null ? <LinkForm token={link} onDone={done} onCancel={() => { taken = null; setLink(null); }} /> : <LoginForm onDone={done} />}
      </div>
    </main>
  );
}

function LoginForm({ onDone }: { onDone: (who: Me) => void }) {
  const [name, setName] = useState("");
  const [password, setPassword] = useState("");
  const { busy, error, run } = useTry();
  const go = (event: Event) => {
    event.preventDefault();
    void run(async () => onDone(await send<Me>("POST", "/admin/api/login", { name, password })));
  };
  return (
    <form onSubmit={go}>
      <h1>{S.title}</h1>
      <Field label={S.name} value={name} onValue={setName} autocomplete="username" autofocus required autocapitalize="none" spellcheck={false} />
      <Field label={S.password} type="password" value={password} onValue={setPassword} autocomplete="current-password" required />
      {error && <ErrorBox error={error} plain={error.code === "bad_login"} />}
      <Button kind="primary" type="submit" busy={busy}>{S.logIn}</Button>
      <p class="hint">{S.noAccount}</p>
    </form>
  );
}

function LinkForm({ token, onDone, onCancel }: { token: string; onDone: (who: Me) => void; onCancel: () => void }) {
  const [name, setName] = useState("");
  const [password, setPassword] = useState("");
  const [again, setAgain] = useState("");
  const [differ, setDiffer] = useState(false);
  const { busy, error, run } = useTry();
  const go = (event: Event) => {
    event.preventDefault();
    setDiffer(password !== again);
    if (password !== again) return;
    void run(async () => onDone(await send<Me>("POST", "/admin/api/link", { token, name, password })));
  };
  const gone = error?.code === "bad_link";
  return (
    <form onSubmit={go}>
      <h1>{S.welcome}</h1>
      <p class="lead">{S.welcomeLead}</p>
      <Field label={S.name} hint={S.nameHint} value={name} onValue={setName} autocomplete="username" autofocus autocapitalize="none" spellcheck={false}
        problem={error?.code === "bad_user_name" || error?.code === "user_exists" ? error.message : undefined} />
      <Field label={S.newPassword} hint={S.newPasswordHint} type="password" value={password} onValue={setPassword} autocomplete="new-password" required
        problem={error?.code === "weak_password" ? error.message : undefined} />
      <Field label={S.repeat} type="password" value={again} onValue={setAgain} autocomplete="new-password" required problem={differ ? S.differ : undefined} />
      {error && !["weak_password", "bad_user_name", "user_exists"].includes(error.code) && <ErrorBox error={error} />}
      <div class="actions">
        <Button kind="primary" type="submit" busy={busy}>{S.begin}</Button>
        {gone && <Button onClick={onCancel}>{S.title}</Button>}
      </div>
    </form>
  );
}

function useTry() {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<ApiError>();
  const run = async (attempt: () => Promise<void>) => {
    setBusy(true);
    setError(undefined);
    try {
      await attempt();
    } catch (failed) {
      if (!(failed instanceof ApiError)) throw failed;
      setError(failed);
    } finally {
      setBusy(false);
    }
  };
  return { busy, error, run };
}

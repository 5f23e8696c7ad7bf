// Sign-in screen: password, one-time link, invitation, GitHub. The token of a link is in the URL's fragment, which
// browsers do not send.
import { Alert, Button, PasswordInput, Stack, Text, TextInput, Title } from "@mantine/core";
import { IconBrandGithub } from "@tabler/icons-react";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { type FormEvent, useEffect, useState } from "react";
import { ApiError, api, data, errorMessage } from "../api/client";
import { signInMethods } from "../api/queries";

/** Removes the link's token from the URL, before it can be navigated to or copied, and returns it. */
function takeToken(): string {
  if (location.pathname !== "/sign-in") return "";
  const token = location.hash.slice(1);
  if (token) history.replaceState(history.state, "", location.pathname + location.search);
  return token;
}

const token = takeToken();

export function SignIn() {
  const queries = useQueryClient();
  const navigate = useNavigate();
  const { next, again } = useSearch({ from: "/sign-in" });
  const [link, setLink] = useState(token);
  const [invited, setInvited] = useState(false);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState("");
  const github = useQuery(signInMethods).data?.github ?? false;

  const signInWithGithub = async () => {
    setBusy(true);
    setError("");
    try {
      location.assign((await data(api.POST("/api/auth/github", { body: {} }))).url);
    } catch (error) {
      setBusy(false);
      setError(errorMessage(error));
    }
  };

  // A link that is opened in a tab with this page changes only the fragment.
  useEffect(() => {
    const changed = () => {
      const token = takeToken();
      if (!token) return;
      setLink(token);
      setInvited(false);
      setError("");
    };
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);

  const submit = async (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const fields = new FormData(event.currentTarget);
    const login = String(fields.get("login") ?? "");
    const password = String(fields.get("password") ?? "");
    setBusy(true);
    setError("");
    try {
      const user = link
        ? await data(
            api.POST("/api/auth/link", {
              body: { token: link, ...(login && { login }), ...(password && { password }) },
            }),
          )
        : await data(api.POST("/api/auth/password", { body: { login, password } }));
      queries.clear();
      queries.setQueryData(["me"], user);
      // The return to a preview is a page of the server; all other targets are routes of this page.
      if (next?.startsWith("/api/auth/preview?")) location.assign(next);
      else await navigate({ to: next?.startsWith("/") && !next.startsWith("//") ? next : "/" });
    } catch (error) {
      setBusy(false);
      if (link && error instanceof ApiError && error.field && !invited) {
        // The link is an invitation: it needs a login first, and an invalid request does not use it up.
        setInvited(true);
        return;
      }
      setError(errorMessage(error));
    }
  };

  return (
    <Stack component="main" className="centered" gap="md">
      <div className="brand">
        <img src="/icon.svg" alt="" />
        FullStack Agent
      </div>
      <form onSubmit={(event) => void submit(event)} className="panel" style={{ padding: 20 }} aria-label="Sign in">
        <Stack gap="sm">
          <Title order={1}>{invited ? "Create your account" : "Sign in"}</Title>
          {error && (
            <Alert color="red" role="alert" py="xs">
              {error}
            </Alert>
          )}
          {again && (
            <Text size="sm">
              Creating tokens, links and users needs a sign-in within the last hour. Sign in again, then repeat the action.
            </Text>
          )}
          {link && !invited && <Text size="sm">This sign-in link can be used once.</Text>}
          {invited && <Text size="sm">Choose a login. You can also set the password later.</Text>}
          {(!link || invited) && (
            <>
              <TextInput
                name="login"
                label="Login"
                autoComplete="username"
                maxLength={40}
                required
                withAsterisk={false}
                autoFocus
              />
              <PasswordInput
                name="password"
                label="Password"
                autoComplete={invited ? "new-password" : "current-password"}
                required={!invited}
                withAsterisk={false}
              />
            </>
          )}
          <Button type="submit" loading={busy} size="sm">
            {invited ? "Create account" : "Sign in"}
          </Button>
          {github && !link && (
            <Button variant="default" size="sm" disabled={busy} leftSection={<IconBrandGithub size={16} />} onClick={() => void signInWithGithub()}>
              Sign in with GitHub
            </Button>
          )}
          {link && (
            <Button
              variant="subtle"
              color="gray"
              onClick={() => {
                setLink("");
                setInvited(false);
                setError("");
              }}
            >
              Sign in with a password
            </Button>
          )}
        </Stack>
      </form>
      {!link && (
        <Text size="xs" c="dimmed">
          To sign in for the first time, open the link that the server printed when it started. If you lost it, restart
          “fsa serve” to print a new one, or ask an owner to create one for you.
        </Text>
      )}
    </Stack>
  );
}

// Whether a browser shows a private preview in a frame of this page.

const host = (url: string) => new URL(url).hostname;

/**
 * The preview knows its visitor by a cookie. A frame of another site keeps one only if it is secure,
 * which it can be over https and on localhost; a host below the page's own is no other site.
 */
export function framable(page: string, preview: string, sharing: "private" | "link" | "public"): boolean {
  if (sharing === "public") return true;
  if (new URL(preview).protocol === "https:" || /(^|\.)localhost$/.test(host(preview))) return true;
  return /[a-z]/i.test(host(page)) && host(preview).endsWith(`.${host(page)}`);
}

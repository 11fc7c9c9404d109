/** The page's one route is in the hash, so that a reload opens the same: #/, #/c/ID, #/admin. */

import { useSyncExternalStore } from 'react'

const subscribe = (listener: () => void) => {
  window.addEventListener('hashchange', listener)
  return () => window.removeEventListener('hashchange', listener)
}

export const linkTo = (conversation: string | null): string => (conversation ? `#/c/${conversation}` : '#/')

export const goTo = (conversation: string | null): void => {
  window.location.hash = linkTo(conversation)
}

export function openedBy(hash: string): { conversation: string | null; admin: boolean } {
  return { conversation: /^#\/c\/([0-9a-f]{32})$/.exec(hash)?.[1] ?? null, admin: hash === '#/admin' }
}

export const useRoute = () => openedBy(useSyncExternalStore(subscribe, () => window.location.hash))

/** What the page knows of conversations: the list, and the trees that were opened. */

import { useCallback, useRef, useState } from 'react'
import { type Conversation, type Message, request, type Talk } from './api'
import type { Chosen } from './tree'

/** Replace messages by their id, or add them. */
export function merged(known: Message[], news: Message[]): Message[] {
  const fresh = new Map(news.map((message) => [message.id, message]))
  const replaced = known.map((message) => fresh.get(message.id) ?? message)
  return [...replaced, ...news.filter((message) => !known.some(({ id }) => id === message.id))]
}

export const running = (messages: Message[]): string[] =>
  messages.filter((message) => message.state === 'running').map((message) => message.id)

export function useTalks() {
  const [talks, setTalks] = useState<Record<string, Talk>>({})
  const [chosen, setChosen] = useState<Record<string, Chosen>>({})

  const changes = useRef<Record<string, number>>({})
  const changed = (id: string) => (changes.current[id] = (changes.current[id] ?? 0) + 1)

  /** Fetch a conversation, again if it changed here meanwhile: what was fetched may be older. */
  const load = useCallback(async (id: string): Promise<void> => {
    const before = changes.current[id]
    const talk = await request<Talk>('GET', `/conversations/${id}`)
    if (changes.current[id] !== before) return load(id)
    changed(id)
    setTalks((known) => ({ ...known, [id]: talk }))
  }, [])

  const put = useCallback((head: Partial<Conversation> & { id: string }, messages: Message[]) => {
    changed(head.id)
    setTalks((known) => {
      const old = known[head.id]
      if (!old && (!head.title || messages.length === 0)) return known // not open, or deleted meanwhile
      const talk = { ...old, ...head, messages: merged(old?.messages ?? [], messages) } as Talk
      return { ...known, [head.id]: talk }
    })
  }, [])

  const choose = useCallback((id: string, choice: Chosen) => {
    setChosen((known) => ({ ...known, [id]: { ...known[id], ...choice } }))
  }, [])

  const forget = useCallback((id?: string) => {
    setTalks((known) => (id ? Object.fromEntries(Object.entries(known).filter(([key]) => key !== id)) : {}))
  }, [])

  return { talks, chosen, load, put, choose, forget }
}

const PAGE = 50
const LARGEST_PAGE = 200

export function useHistory() {
  const [conversations, setConversations] = useState<Conversation[]>([])
  const [more, setMore] = useState(false)
  const [search, setSearch] = useState('')
  const asked = useRef(0)
  const paged = search ? conversations : conversations.filter(({ pinned }) => !pinned) // the list has all pinned ones
  const count = useRef(0)
  count.current = paged.length

  const fetchPage = useCallback(async (text: string, before?: number) => {
    const query = new URLSearchParams({ limit: String(before ? PAGE : Math.min(LARGEST_PAGE, Math.max(PAGE, count.current))) })
    if (text) query.set('search', text)
    if (before) query.set('before', String(before))
    const mine = ++asked.current
    const page = await request<{ conversations: Conversation[]; more: boolean }>('GET', `/conversations?${query}`)
    if (mine !== asked.current) return // a later request knows better
    setConversations((known) => {
      const ids = new Set(page.conversations.map(({ id }) => id))
      return before ? [...known.filter(({ id }) => !ids.has(id)), ...page.conversations] : page.conversations
    })
    setMore(page.more)
  }, [])

  const refresh = useCallback(() => fetchPage(search), [fetchPage, search])
  const extend = () => fetchPage(search, paged.at(-1)?.updated_at)

  return { conversations, more, search, setSearch, refresh, extend }
}

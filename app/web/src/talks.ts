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

  const load = useCallback(async (id: string) => {
    const talk = await request<Talk>('GET', `/conversations/${id}`)
    setTalks((known) => ({ ...known, [id]: talk }))
  }, [])

  const put = useCallback((head: Partial<Conversation> & { id: string }, messages: Message[]) => {
    setTalks((known) => {
      const old = known[head.id]
      if (!old && !head.title) return known // closed or deleted meanwhile
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

export function useHistory() {
  const [conversations, setConversations] = useState<Conversation[]>([])
  const [more, setMore] = useState(false)
  const [search, setSearch] = useState('')
  const asked = useRef(0)

  const fetchPage = useCallback(async (text: string, before?: number) => {
    const query = new URLSearchParams({ limit: '50' })
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
  const extend = useCallback(() => {
    const last = conversations.filter(({ pinned }) => !pinned).at(-1)
    return fetchPage(search, last?.updated_at)
  }, [fetchPage, search, conversations])

  return { conversations, more, search, setSearch, refresh, extend }
}

/** Answers that are being made: one EventSource for each that is listened to, outside of all components. */

import { useSyncExternalStore } from 'react'
import type { Message } from './api'

export interface Delta {
  offset: number
  text: string
}

interface Live {
  text: string
  source: EventSource | null
  failures: number
  timer: number
}

const DRAW_MS = 50
const LONGEST_WAIT_MS = 30_000

const lives = new Map<string, Live>()
const listeners = new Set<() => void>()
let drawing = 0
let ended = (_conversation: string, _answer: Message) => {}
let broken = () => {}

/** Set who is told when an answer is over, and when a stream is refused (who asks, or the answer, may be gone). */
export function onStream(end: typeof ended, refused: typeof broken): void {
  ended = end
  broken = refused
}

/** Return the text with a delta at its place, twice the same or not; null if something is missing before it. */
export function joined(text: string, delta: Delta): string | null {
  if (delta.offset > text.length) return null
  const overlap = text.length - delta.offset
  return overlap >= delta.text.length ? text : text + delta.text.slice(overlap)
}

/** Listen to these answers and to no others: a browser opens six connections to a host, and each stream holds one. */
export function follow(answers: string[]): void {
  for (const [id, live] of lives) if (!answers.includes(id)) close(live)
  for (const id of answers) if (!isOpen(id)) open(id)
}

/** Open every stream again after a sleep or a change of network. */
export function reconnect(): void {
  for (const [id, live] of lives) {
    if (!live.source && !live.timer) continue
    close(live)
    open(id)
  }
}

export function useLive(answer: string): string {
  return useSyncExternalStore(subscribe, () => lives.get(answer)?.text ?? '')
}

function subscribe(listener: () => void): () => void {
  listeners.add(listener)
  return () => listeners.delete(listener)
}

function isOpen(id: string): boolean {
  const live = lives.get(id)
  return !!live && (!!live.source || !!live.timer)
}

function open(id: string): void {
  const live = lives.get(id) ?? { text: '', source: null, failures: 0, timer: 0 }
  lives.set(id, live)
  live.timer = 0
  const source = new EventSource(`/api/answers/${id}/events?from=${live.text.length}`)
  live.source = source
  source.addEventListener('delta', (event) => {
    live.failures = 0
    const text = joined(live.text, JSON.parse(event.data))
    if (text === null) {
      close(live)
      open(id)
    } else {
      live.text = text
      draw()
    }
  })
  source.addEventListener('end', (event) => {
    const { conversation, message } = JSON.parse(event.data)
    if (message.state === 'running') return retry(id, live) // the server is at fault
    close(live)
    lives.delete(id)
    ended(conversation, message)
  })
  source.addEventListener('error', () => {
    if (source.readyState === EventSource.CLOSED) retry(id, live)
  })
}

function retry(id: string, live: Live): void {
  close(live)
  live.timer = window.setTimeout(() => open(id), Math.min(1000 * 2 ** live.failures++, LONGEST_WAIT_MS))
  broken()
}

function close(live: Live): void {
  live.source?.close()
  live.source = null
  window.clearTimeout(live.timer)
  live.timer = 0
}

function draw(): void {
  if (drawing) return
  drawing = window.setTimeout(() => {
    drawing = 0
    for (const listener of listeners) listener()
  }, DRAW_MS)
}

/** A conversation is a tree: children of one message are branches, and one branch is shown. */

import type { Message } from './api'

/** By parent ("" for the first questions): the child that the reader chose. */
export type Chosen = Record<string, string>

export const keyOf = (parent: string | null): string => parent ?? ''

/** Return the children of each message, oldest first. */
export function branches(messages: Message[]): Map<string, Message[]> {
  const found = new Map<string, Message[]>()
  for (const message of messages) {
    const key = keyOf(message.parent)
    found.set(key, [...(found.get(key) ?? []), message])
  }
  return found
}

/** Return the branch that is shown, first question first: what was chosen, else what leads to the latest message. */
export function trail(messages: Message[], chosen: Chosen): Message[] {
  const children = branches(messages)
  const latest = latestBelow(messages)
  const shown: Message[] = []
  for (let key = ''; children.has(key); key = shown.at(-1)!.id) {
    const candidates = children.get(key)!
    const newest = candidates.reduce((best, next) => (latest.get(next.id)! > latest.get(best.id)! ? next : best))
    shown.push(candidates.find((message) => message.id === chosen[key]) ?? newest)
  }
  return shown
}

/** Return what the next question follows: an answer; beside a question that got none, it is a branch. */
export function nextParent(shown: Message[]): string | null {
  const last = shown.at(-1)
  return (last?.role === 'user' ? last.parent : last?.id) ?? null
}

function latestBelow(messages: Message[]): Map<string, number> {
  const latest = new Map(messages.map((message) => [message.id, message.created_at]))
  for (const { id, parent } of [...messages].reverse()) {
    if (parent !== null) latest.set(parent, Math.max(latest.get(parent) ?? 0, latest.get(id)!))
  }
  return latest
}

/** Return a model's name without its version. */
export const modelOf = (answer: Message): string => answer.model.split('@')[0]!

/** Return the answers to one question by model: with several models they stand side by side, each with its own branches. */
export function columns(answers: Message[]): Message[][] {
  const found = new Map<string, Message[]>()
  for (const answer of answers) found.set(modelOf(answer), [...(found.get(modelOf(answer)) ?? []), answer])
  return [...found.values()]
}

/** Return the distinct lines of the emergency notices of a branch, the latest question's first. */
export function notices(shown: Message[]): string[] {
  const lines = shown.map((message) => message.notice.split('\n').filter(Boolean))
  return [...new Set(lines.reverse().flat())]
}

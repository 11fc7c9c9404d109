/** Words that several places share, and what computes words. */

import type { Message } from './api'

export const STATES: Record<Message['state'], string> = {
  running: '',
  done: '',
  stopped: '已停止',
  cut: '回答达到长度上限，没有说完',
  failed: '回答出错了，请重试',
  lost: '服务重启，回答没有做完',
}

export const SHORTCUTS: [keys: string, what: string][] = [
  ['Enter', '发送问题'],
  ['Shift + Enter', '换行'],
  ['Esc', '停止回答'],
  ['Ctrl / ⌘ + K', '搜索对话'],
  ['Ctrl / ⌘ + Shift + O', '新对话'],
  ['?', '显示快捷键'],
]

const DAY_MS = 86_400_000

const midnight = (time: number): number => new Date(time).setHours(0, 0, 0, 0)

const daysBetween = (time: number, now: number): number => Math.round((midnight(now) - midnight(time)) / DAY_MS)

/** Return the heading under which the history lists a conversation. */
export function groupOf({ pinned, updated_at }: { pinned: boolean; updated_at: number }, now: number): string {
  if (pinned) return '置顶'
  const days = daysBetween(updated_at, now)
  if (days <= 0) return '今天'
  if (days === 1) return '昨天'
  return days < 7 ? '近 7 天' : '更早'
}

/** Return a time as short as it can be understood: 14:05, 昨天, 11月20日, 2025年11月20日. */
export function shortTime(time: number, now: number): string {
  const days = daysBetween(time, now)
  const date = new Date(time)
  if (days <= 0) return date.toLocaleTimeString('zh-CN', { hour: '2-digit', minute: '2-digit', hour12: false })
  if (days === 1) return '昨天'
  const sameYear = date.getFullYear() === new Date(now).getFullYear()
  return date.toLocaleDateString('zh-CN', { year: sameYear ? undefined : 'numeric', month: 'long', day: 'numeric' })
}

export const fullTime = (time: number): string => new Date(time).toLocaleString('zh-CN', { hour12: false })

/** Cut a text where its emergency numbers are: they become links that call. */
export const splitNumbers = (text: string): string[] => text.split(/(?<!\d)(120|12356)(?!\d)/)

/** Whether a text may hold a formula, so that KaTeX is worth loading. */
export const hasFormula = (text: string): boolean => formulas(text).includes('$$')

const CODE = /(```[\s\S]*?(?:```|$)|`[^`\n]*`)/
const FORMULA = /\\\[([\s\S]+?)\\\]|\\\((.+?)\\\)|(?<![\\$])\$(?![\s$])([^$\n]*[\\^_=+][^$\n]*?)(?<!\s)\$(?![\d$])/g

/** Write formulas as $$…$$ outside of code; a lone $ stays what it is, a currency. */
export function formulas(text: string): string {
  const rewrite = (part: string) =>
    part.replace(FORMULA, (_, display?: string, inline?: string, dollar?: string) =>
      display === undefined ? `$$${(inline ?? dollar ?? '').trim()}$$` : `\n$$\n${display.trim()}\n$$\n`,
    )
  return text.split(CODE).map((part, index) => (index % 2 ? part : rewrite(part))).join('')
}

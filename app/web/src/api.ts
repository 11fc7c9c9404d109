/** The application's own API: its types, and one function that calls it. */

export interface Model {
  id: string
  version: string
}

export interface Session {
  person: { id: string; name: string; admin: boolean; local: boolean }
  models: Model[]
  ready: boolean
  limits: { message_characters: number }
  page: {
    title: string
    subtitle: string
    disclaimer: string
    generated: string
    examples: string[]
    placeholder: string
  }
}

export interface Conversation {
  id: string
  title: string
  pinned: boolean
  created_at: number
  updated_at: number
  answering: string[]
  match?: string
}

export interface Message {
  id: string
  parent: string | null
  role: 'user' | 'assistant'
  content: string
  created_at: number
  notice: string
  state: 'running' | 'done' | 'stopped' | 'cut' | 'failed' | 'lost'
  error: string
  model: string
  dropped: number
  liked: boolean | null
  correction: string | null
}

export type Talk = Conversation & { messages: Message[] }

export interface Asked {
  conversation: Conversation
  question: Message
  answers: Message[]
}

/** An error that the server put into words, or the network's silence. */
export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly code: string,
    readonly retryAfter: number,
  ) {
    super(message)
  }
}

let loginRequired = () => {}

/** Set what happens when the server does not know who asks. */
export function onLoginRequired(callback: () => void): void {
  loginRequired = callback
}

export async function request<T = void>(method: string, path: string, body?: unknown): Promise<T> {
  const reply = await fetch(`/api${path}`, {
    method,
    headers: body === undefined ? {} : { 'Content-Type': 'application/json' },
    body: body === undefined ? undefined : JSON.stringify(body),
  }).catch(() => {
    throw new ApiError('网络不通，请检查网络后再试。', 0, 'offline', 0)
  })
  if (!reply.ok) throw await errorOf(reply)
  return (reply.status === 204 ? undefined : await reply.json()) as T
}

async function errorOf(reply: Response): Promise<ApiError> {
  const { error } = await reply.json().catch(() => ({ error: {} }))
  const code: string = error?.code ?? ''
  if (code === 'login_required') loginRequired()
  const retryAfter = Number(reply.headers.get('Retry-After')) || 0
  return new ApiError(error?.message ?? `服务暂时不可用（${reply.status}），请稍后再试。`, reply.status, code, retryAfter)
}

/** Return a failure in words for people. */
export function reasonOf(error: unknown): string {
  return error instanceof ApiError ? error.message : '页面出错了，请刷新后再试。'
}

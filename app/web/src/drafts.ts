/** What was typed and not sent yet, by conversation ("" is the new one): it survives a reload of this tab. */

import { useCallback, useEffect, useState } from 'react'

const KEY = 'drafts'

export function useDrafts() {
  const [drafts, setDrafts] = useState<Record<string, string>>(() => JSON.parse(sessionStorage.getItem(KEY) ?? '{}'))
  useEffect(() => sessionStorage.setItem(KEY, JSON.stringify(drafts)), [drafts])

  const write = useCallback((key: string, text: string) => setDrafts((known) => ({ ...known, [key]: text })), [])
  const restore = useCallback(
    (key: string, text: string) => setDrafts((known) => (known[key] ? known : { ...known, [key]: text })),
    [],
  )
  const move = useCallback(
    (from: string, to: string) => setDrafts(({ [from]: text = '', ...others }) => ({ ...others, [to]: text })),
    [],
  )
  const clear = useCallback(() => setDrafts({}), [])
  return { drafts, write, restore, move, clear }
}

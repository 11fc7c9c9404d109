/** What was typed and not sent yet, by conversation ("" is the new one): it survives a reload of this tab. */

import { useCallback, useEffect, useState } from 'react'

const KEY = 'drafts'

export function useDrafts() {
  const [drafts, setDrafts] = useState<Record<string, string>>(() => JSON.parse(sessionStorage.getItem(KEY) ?? '{}'))
  useEffect(() => sessionStorage.setItem(KEY, JSON.stringify(drafts)), [drafts])

  const write = useCallback((key: string, text: string) => setDrafts((known) => ({ ...known, [key]: text })), [])
  const clear = useCallback(() => setDrafts({}), [])
  return { drafts, write, clear }
}
